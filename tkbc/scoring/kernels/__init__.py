"""CUDA kernels in Triton, one stage a file; without the interpreter they compile for any GPU from Volta on."""
