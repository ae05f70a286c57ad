from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from memplan.app.cli import app
from memplan.catalog.datasets import find_dataset
from memplan.catalog.gpus import GPUS, find_gpu, recognize
from memplan.device import present as machine
from memplan.device.asked import is_auto, parse_devices
from memplan.device.links import NVLINK_BYTES_PER_SECOND, gpu_link
from memplan.device.present import PresentGpu, cgroup_rooms, usable_threads
from memplan.device.rates import gpu_rates
from memplan.device.target import CUDA_CONTEXT_BYTES, NCCL_BYTES, PROCESS_BYTES, numbers_to_try, resolve
from memplan.errors import MemplanError, UsageError
from memplan.search.planner import plan
from memplan.workload.rules import available
from tkbc.scoring import make_score

GIB = 2**30


def test_a_present_gpu_s_free_memory_is_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", lambda: [PresentGpu("Tesla T4", 15 * GIB, 6 * GIB)])
    target = resolve(None, None)
    assert (target.device, target.name, target.outside_bytes) == ("cuda", "Tesla T4", CUDA_CONTEXT_BYTES)
    assert 5.8 * GIB < target.budget_bytes < 6 * GIB, "free memory counts, not the total"
    assert resolve("cuda", "2GiB").budget_bytes == 2 * GIB
    assert resolve("cpu", None).device == "cpu"


def test_without_a_gpu_cuda_is_refused_and_the_default_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", list)
    assert resolve(None, None).device == "cpu"
    with pytest.raises(MemplanError, match="no NVIDIA GPU or driver"):
        resolve("cuda", None)


def test_a_cgroup_s_limit_counts_wherever_it_is_set(tmp_path: Path) -> None:
    """The limit stands two levels up; our own group has none."""
    own = tmp_path / "cgroup" / "slice" / "job"
    own.mkdir(parents=True)
    membership = tmp_path / "membership"
    membership.write_text("0::/slice/job\n")
    (own / "memory.max").write_text("max\n")
    (own / "memory.current").write_text("5\n")
    (own.parent / "memory.max").write_text("1000\n")
    (own.parent / "memory.current").write_text("300\n")
    assert cgroup_rooms(tmp_path / "cgroup", membership) == [(own.parent / "memory.max", 700)]


def test_an_old_cgroup_s_limit_counts_too(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / "memory.limit_in_bytes").write_text("1000\n")
    (memory / "memory.usage_in_bytes").write_text("1200\n")
    assert cgroup_rooms(tmp_path, tmp_path / "absent") == [(memory / "memory.limit_in_bytes", 0)]


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert usable_threads() >= 1


def test_without_numba_plans_fall_back_to_chunked_and_fused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert available("l1", "cpu") == ["materialized", "chunked"]
    found = plan(find_dataset("ICEWS14").shape, resolve("cpu", "300MiB"), model="TNTPairRE")
    assert found.scoring == "chunked"
    with pytest.raises(UsageError, match="needs the package numba"):
        make_score("l1", "fused", "cpu")


class FakeNvml:
    """NVML as a machine with two GPUs would answer, another process at work on the first."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    nvmlShutdown = nvmlInit  # noqa: N815

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return ("Tesla T4", "NVIDIA A100-SXM4-80GB")[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=(15 * GIB, 80 * GIB)[handle], free=(9 * GIB, 79 * GIB)[handle])

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return ((7, 5), (8, 0))[handle]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:  # noqa: N802
        if handle == 1:
            raise self.NVMLError
        return [SimpleNamespace(pid=77, usedGpuMemory=5 * GIB), SimpleNamespace(pid=78, usedGpuMemory=None)]


def test_the_gpus_of_this_machine_their_free_memory_and_who_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())  # type: ignore[arg-type]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = machine.present_gpus()
    assert (first.free_bytes, first.capability) == (9 * GIB, (7, 5))
    assert first.processes == ((77, 5 * GIB), (78, 0))
    assert second.processes == (), "not permitted to know"
    target = resolve("cuda", None)
    assert target.budget_bytes == round(9 * GIB * 0.98)
    assert target.rates == gpu_rates(GPUS["T4"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    hopperless = resolve("cuda", None)
    assert (hopperless.name, hopperless.rates) == ("NVIDIA A100-SXM4-80GB", gpu_rates(GPUS["A100 80GB"]))
    assert hopperless.workspace_bytes == 8_519_680
    shown = CliRunner().invoke(app, ["devices"]).stdout
    assert "A100" in shown


def test_the_catalog_has_the_gpus_that_people_have() -> None:
    assert len(GPUS) >= 25
    for name in ("T4", "P100", "V100", "RTX 2060", "RTX 5090", "GTX 1650", "GTX 1080 Ti", "A10", "L4", "L40S", "H200"):
        gpu = find_gpu(f"NVIDIA {name}")
        assert gpu.source
        assert 1e9 < gpu.bytes_per_second < 1e13 < 100 * gpu.flops_per_second
    assert resolve("H100", None).workspace_bytes == 32 * 2**20
    assert recognize("Matrox Mystique", GIB) is None


@pytest.mark.parametrize(
    ("printed", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla V100-PCIE-16GB", "V100"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("Quadro RTX 8000", "Quadro RTX 8000"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "RTX 3060 Laptop"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 2060 with Max-Q Design", "RTX 2060"),
        ("NVIDIA GeForce GTX 1060 6GB", "GTX 1060"),
        ("NVIDIA GeForce GTX 1650", "GTX 1650"),
        ("3060 Ti", "RTX 3060 Ti"),
    ],
)
def test_names_as_nvidia_smi_prints_them_and_people_write_them(printed: str, name: str) -> None:
    assert find_gpu(printed).name == name


def test_a_laptop_s_chip_is_not_the_card_of_its_name() -> None:
    laptop, card = resolve("RTX 3060 Laptop GPU", None), resolve("RTX 3060", None)
    assert (laptop.total_bytes, card.total_bytes) == (round(6 * GIB * 0.92), round(12 * GIB * 0.92))
    assert recognize("NVIDIA GeForce RTX 3060 Laptop GPU", 6 * GIB) == GPUS["RTX 3060 Laptop"]
    assert recognize("NVIDIA GeForce RTX 3080 Laptop GPU", 16 * GIB - 1) == GPUS["RTX 3080 Laptop 16GB"]
    assert recognize("NVIDIA GeForce RTX 4060 Ti", 8 * GIB) == GPUS["RTX 4060 Ti 8GB"]
    for gpu in GPUS.values():
        assert find_gpu(gpu.name) == gpu, "every name means itself"


def test_a_name_with_two_sizes_is_asked_about_and_a_wrong_size_told() -> None:
    with pytest.raises(UsageError, match=r"A100: there is more than one; say which: 'A100 40GB' or 'A100 80GB'$"):
        resolve("A100", None)
    with pytest.raises(UsageError, match=r"there is none; 'RTX 3060' has 12 GiB, 'RTX 3060 Laptop' has 6 GiB$"):
        resolve("RTX 3060 6GB", None)
    with pytest.raises(UsageError, match="RTX 2060 Laptop: there is none; 'RTX 2060' has 6 GiB"):
        resolve("RTX 2060 Laptop", None)


def test_a_size_is_a_gpu_of_which_nothing_else_is_known() -> None:
    unknown, known = resolve("8GiB", None), resolve("RTX 3070", None)
    assert (unknown.device, unknown.budget_bytes) == ("cuda", known.budget_bytes)
    assert "unknown otherwise" in unknown.budget_source
    shape = find_dataset("ICEWS14").shape
    careful = plan(shape, unknown, model="TNTPairRE")
    assert careful.scoring == "fused"
    for gpu in GPUS.values():
        if gpu.memory_gib == 8 and gpu.capability >= (7, 0):
            target = resolve(gpu.name, None)
            assert unknown.rates.bytes_per_second <= target.rates.bytes_per_second
            assert unknown.workspace_bytes >= target.workspace_bytes
            assert careful.peak.device_bytes <= target.budget_bytes
    assert resolve("8GiB", "2GiB").budget_bytes == 2 * GIB
    assert resolve("3060", None).name == "RTX 3060", "a bare number is a name"


def test_the_tables_say_why_a_card_is_out() -> None:
    why = "Triton, which compiles the fused L1 kernel, needs compute capability 7.0 (Volta), and they are older"
    for command in (["devices"], ["compare", "--dataset", "ICEWS14", "--device", "T4", "--ranks", "64"]):
        shown = CliRunner().invoke(app, command).stdout
        told = re.search(rf"(?:leaves out|fused L1 on) (.*): {re.escape(why)}", shown)
        assert told is not None
        old = {name for name, gpu in GPUS.items() if gpu.capability < (7, 0)}
        small = {name for name in old if GPUS[name].memory_gib < 4}  # compare: out for its memory already
        assert set(told[1].split(", ")) == (old if command == ["devices"] else old - small)


@pytest.mark.parametrize("text", ["2xT4", "2 x T4", "2×tesla t4", "2XT4"])
def test_a_number_of_a_kind_is_one_of_them_each_with_its_budget(text: str) -> None:
    one, several = resolve("T4", None), resolve(None, None, text)
    assert (several.n_devices, several.name) == (2, "2 × T4")
    assert several.outside_bytes == one.outside_bytes + NCCL_BYTES
    assert several._replace(n_devices=None, name="T4", outside_bytes=one.outside_bytes) == one
    assert resolve("NVIDIA T4", None, "2xT4") == resolve("T4", None, "2") == several
    assert resolve(None, "2GiB", text).budget_bytes == 2 * GIB, "on each"


def test_cpu_processes_share_memory_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(machine, "free_ram_bytes", lambda: (100 * GIB, "free RAM"))
    monkeypatch.setattr(machine, "present_gpus", list)
    one, four = resolve("cpu", None), resolve(None, None, "4")
    assert four.budget_bytes == round(90 * GIB) // 4 - PROCESS_BYTES
    assert "by 4 processes" in four.budget_source
    assert one.budget_bytes == round(90 * GIB) - PROCESS_BYTES
    assert (four.outside_bytes, four.n_devices, one.n_devices) == (0, 4, None)


def test_no_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with the least free memory decides, and one is not two."""
    here = [PresentGpu("Tesla T4", 15 * GIB, 9 * GIB), PresentGpu("Tesla T4", 15 * GIB, 6 * GIB)]
    monkeypatch.setattr(machine, "present_gpus", lambda: here)
    assert resolve(None, None, "2").budget_bytes == resolve("cuda", None, "2").budget_bytes == round(6 * GIB * 0.98)
    assert resolve("cuda", None, "1").budget_bytes == round(9 * GIB * 0.98)
    assert resolve("cpu", None, "4").device == "cpu"
    for device in (None, "cuda"):
        with pytest.raises(MemplanError, match=r"--devices 4: there are 2 GPUs here, Tesla T4, Tesla T4; use that"):
            resolve(device, None, "4")
    monkeypatch.setattr(machine, "present_gpus", lambda: here[:1])
    with pytest.raises(MemplanError, match="there is 1 GPU here"):
        resolve(None, None, "2")
    monkeypatch.setattr(machine, "present_gpus", list)
    with pytest.raises(MemplanError, match="no NVIDIA GPU"):
        resolve("cuda", None, "2")


@pytest.mark.parametrize("text", ["", "two", "0", "-1", "2x", "x2", "2.5", "1e3", "99999999", "٢", "2xx T4"])
def test_what_is_no_number_of_devices_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(None, None, text)
    assert "\n" not in str(caught.value)


def test_two_kinds_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="--device A100-80GB and --devices 2xT4 name two kinds, A100 80GB and T4"):
        resolve("A100-80GB", None, "2xT4")
    assert parse_devices("16xRTX 3060 Laptop").device == "RTX 3060 Laptop"
    assert is_auto(" AUTO")
    assert not is_auto("2")


def test_the_numbers_that_are_tried_end_with_all_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(machine, "present_gpus", lambda: [PresentGpu("Tesla T4", GIB, GIB)] * 6)
    assert numbers_to_try(None) == numbers_to_try("cuda") == [1, 2, 4, 6]
    assert numbers_to_try("cpu") == [1, 2, 3]
    assert numbers_to_try("T4") == [1, 2, 4, 8, 16, 32, 64]


def test_links_are_those_of_the_boards() -> None:
    """NVLink for the boards that have it of their own, by its generations; else PCI Express by the card's."""
    assert set(NVLINK_BYTES_PER_SECOND) <= set(GPUS)
    rate = {name: gpu_link(gpu).bytes_per_second for name, gpu in GPUS.items()}
    assert rate["H100"] > rate["A100 40GB"] > rate["V100"] > rate["RTX 5090"] > rate["RTX 4090"] > rate["T4"]
    assert rate["H100 PCIe"] == rate["RTX 5090"]
    for name, gpu in GPUS.items():
        assert 1e9 < rate[name] < gpu.bytes_per_second, "no link is as fast as the memory"
