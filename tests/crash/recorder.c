/* Records, or refuses, every system call that changes files below a folder, whoever makes it: Python, NumPy, Rust.
 *
 *     cc -shared -fPIC -O1 -o recorder.so recorder.c     LD_PRELOAD=recorder.so python ...
 *
 * recorder_start(root, log) begins to append to the file log, one record a call:
 *     "name\tpath\tother path\tinode\toffset\tbytes\n" and then so many bytes of data.
 * recorder_refuse(root, at) makes call number at below root that needs room on the disk, from 0, and all after it, fail
 * with ENOSPC: writing, making a file, making a folder. recorder_stop() ends both and returns how many calls there were
 * (that need room, while refusing). One thread at a time is expected to write below the root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static int log_fd = -1, refuse_at = -1, refusing = 0;
static long calls = 0;

#define ACTIVE (log_fd >= 0 || refusing)

void recorder_start(const char *folder, const char *log) {
    strncpy(root, folder, PATH_MAX - 1);
    calls = 0;
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

void recorder_refuse(const char *folder, int at) {
    strncpy(root, folder, PATH_MAX - 1);
    calls = 0, refusing = 1, refuse_at = at;
}

long recorder_stop(void) {
    if (log_fd >= 0) syscall(SYS_close, log_fd);
    log_fd = -1, refusing = 0;
    return calls;
}

static int below(const char *path) {
    size_t n = strlen(root);
    return ACTIVE && strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0);
}

/* The full path of a name beside a folder's descriptor; of a descriptor alone where the name is NULL. */
static const char *full(int folder, const char *name, char *buffer) {
    char link[64];
    if (name != NULL && name[0] == '/') return strncpy(buffer, name, PATH_MAX - 1);
    if (name != NULL && folder == AT_FDCWD) {
        if (getcwd(buffer, PATH_MAX - 1) == NULL) return strcpy(buffer, "?");
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, buffer, PATH_MAX - 1);
        if (n < 0) return strcpy(buffer, "?");
        buffer[n] = 0;
    }
    if (name != NULL) {
        strncat(buffer, "/", PATH_MAX - strlen(buffer) - 1);
        strncat(buffer, name, PATH_MAX - strlen(buffer) - 1);
    }
    return buffer;
}

static void note(const char *name, const char *path, const char *other, long offset, const void *data, size_t n) {
    if (log_fd < 0) return;
    char head[2 * PATH_MAX + 128];
    struct stat about = {0};
    stat(other[0] ? other : path, &about);
    int length = snprintf(
        head, sizeof head, "%s\t%s\t%s\t%lu\t%ld\t%zu\n", name, path, other, (unsigned long)about.st_ino, offset, n);
    syscall(SYS_write, log_fd, head, length);
    if (n > 0) syscall(SYS_write, log_fd, data, n);
    calls++;
}

/* Whether a call that needs room is refused. */
static int no_room(void) {
    if (!refusing || calls++ < refuse_at) return 0;
    errno = ENOSPC;
    return 1;
}

static int open_path(int folder, const char *name, int flags, mode_t mode) {
    char buffer[PATH_MAX] = "";
    const char *path = full(folder, name, buffer);
    int ours = below(path) && (flags & (O_CREAT | O_TRUNC)) != 0;
    int is_new = ours && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) != 0;
    if (is_new && no_room()) return -1;
    int found = syscall(SYS_openat, folder, name, flags, mode);
    if (found >= 0 && ours && is_new) note("create", path, "", 0, NULL, 0);
    if (found >= 0 && ours && !is_new && (flags & O_TRUNC)) note("truncate", path, "", 0, NULL, 0);
    return found;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

int open(const char *name, int flags, ...) { MODE(flags) return open_path(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return open_path(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags) return open_path(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE(flags) return open_path(at, name, flags | O_LARGEFILE, mode); }

static ssize_t write_at(int fd, const void *data, size_t n, long offset) {
    char buffer[PATH_MAX] = "";
    struct stat about;
    if (!ACTIVE || fstat(fd, &about) != 0 || !S_ISREG(about.st_mode) || !below(full(fd, NULL, buffer)))
        return offset < 0 ? syscall(SYS_write, fd, data, n) : syscall(SYS_pwrite64, fd, data, n, offset);
    if (no_room()) return -1;
    long place = offset >= 0 ? offset : lseek(fd, 0, SEEK_CUR);
    if (offset < 0 && (fcntl(fd, F_GETFL) & O_APPEND)) place = about.st_size;
    ssize_t done = offset < 0 ? syscall(SYS_write, fd, data, n) : syscall(SYS_pwrite64, fd, data, n, offset);
    if (done > 0) note("write", buffer, "", place, data, done);
    return done;
}

ssize_t write(int fd, const void *data, size_t n) { return write_at(fd, data, n, -1); }
ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) { return write_at(fd, data, n, offset); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) { return write_at(fd, data, n, offset); }
ssize_t writev(int fd, const struct iovec *parts, int n) {
    ssize_t total = 0;
    if (!ACTIVE) return syscall(SYS_writev, fd, parts, n);
    for (int i = 0; i < n; i++) {
        ssize_t done = write_at(fd, parts[i].iov_base, parts[i].iov_len, -1);
        if (done < 0) return total > 0 ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

static int cut(int fd, off_t length) {
    char buffer[PATH_MAX] = "";
    int found = syscall(SYS_ftruncate, fd, length);
    if (found == 0 && ACTIVE && below(full(fd, NULL, buffer))) note("truncate", buffer, "", length, NULL, 0);
    return found;
}
int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

static int sync_fd(int fd, long number) {
    char buffer[PATH_MAX] = "";
    int found = syscall(number, fd);
    if (found == 0 && ACTIVE && below(full(fd, NULL, buffer))) note("sync", buffer, "", 0, NULL, 0);
    return found;
}
int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }

static int move(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char one[PATH_MAX] = "", other[PATH_MAX] = "";
    full(from_at, from, one), full(to_at, to, other);
    int found = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    if (found == 0 && (below(one) || below(other))) note("rename", one, other, 0, NULL, 0);
    return found;
}
int rename(const char *from, const char *to) { return move(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return move(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return move(a, from, b, to, flags); }

static int take_away(int at, const char *name, int flags) {
    char buffer[PATH_MAX] = "";
    full(at, name, buffer);
    int found = syscall(SYS_unlinkat, at, name, flags);
    if (found == 0 && below(buffer)) note("remove", buffer, "", 0, NULL, 0);
    return found;
}
int unlink(const char *name) { return take_away(AT_FDCWD, name, 0); }
int unlinkat(int at, const char *name, int flags) { return take_away(at, name, flags); }
int rmdir(const char *name) { return take_away(AT_FDCWD, name, AT_REMOVEDIR); }

static int make_folder(int at, const char *name, mode_t mode) {
    char buffer[PATH_MAX] = "";
    if (below(full(at, name, buffer)) && syscall(SYS_faccessat, AT_FDCWD, buffer, F_OK) != 0 && no_room()) return -1;
    int found = syscall(SYS_mkdirat, at, name, mode);
    if (found == 0 && below(buffer)) note("mkdir", buffer, "", 0, NULL, 0);
    return found;
}
int mkdir(const char *name, mode_t mode) { return make_folder(AT_FDCWD, name, mode); }
int mkdirat(int at, const char *name, mode_t mode) { return make_folder(at, name, mode); }
