"""The figures of GPUs as their maker states them, each row with the document that holds them.

A row: name, GiB of memory (nominal), TFLOP/s of fp32 outside tensor cores at boost clock, GB/s of memory, CUDA compute
capability, source. A laptop's chip is another chip than the desktop card of its name, with less memory. Its boost clock
depends on the power that its maker gives it; the highest is taken, as for cards.
"""

from __future__ import annotations

Row = tuple[str, int, float, float, str, str]

_BOOST = "boost clock times cores"
_LAPTOPS = "NVIDIA GeForce RTX {} Series Laptops comparison page (highest boost clock times cores)"
_LAPTOPS_30, _LAPTOPS_40, _LAPTOPS_50 = (_LAPTOPS.format(series) for series in (30, 40, 50))


def _page(card: str, *notes: str) -> str:
    noted = f" ({', '.join(notes)})" if notes else ""
    return f"NVIDIA GeForce {card} product specifications page{noted}"


PASCAL: tuple[Row, ...] = (
    ("GTX 1050", 2, 1.9, 112, "6.1", _page("GTX 1050", "2 GB card")),
    ("GTX 1050 Ti", 4, 2.1, 112, "6.1", _page("GTX 1050 Ti")),
    ("GTX 1060 3GB", 3, 3.9, 192, "6.1", _page("GTX 1060", "3 GB card")),
    ("GTX 1060", 6, 4.4, 192, "6.1", _page("GTX 1060", "6 GB card")),
    ("GTX 1070", 8, 6.5, 256, "6.1", _page("GTX 1070", _BOOST)),
    ("GTX 1070 Ti", 8, 8.2, 256, "6.1", _page("GTX 1070 Ti", _BOOST)),
    ("GTX 1080", 8, 8.9, 320, "6.1", "NVIDIA GeForce GTX 1080 whitepaper"),
    ("GTX 1080 Ti", 11, 11.3, 484, "6.1", _page("GTX 1080 Ti")),
    ("TITAN Xp", 12, 12.1, 548, "6.1", "NVIDIA TITAN Xp product page"),
    ("P4", 8, 5.5, 192, "6.1", "NVIDIA Tesla P4 datasheet"),
    ("P40", 24, 12.0, 346, "6.1", "NVIDIA Tesla P40 datasheet"),
    ("P100 12GB", 12, 9.3, 549, "6.0", "NVIDIA Tesla P100 PCIe datasheet (PCIe, 12 GB)"),
    ("P100", 16, 9.3, 732, "6.0", "NVIDIA Tesla P100 PCIe datasheet (PCIe)"),
)

VOLTA_TURING: tuple[Row, ...] = (
    ("V100", 16, 15.7, 900, "7.0", "NVIDIA V100 datasheet (SXM2)"),
    ("V100 32GB", 32, 15.7, 900, "7.0", "NVIDIA V100 datasheet (SXM2)"),
    ("TITAN V", 12, 14.9, 653, "7.0", "NVIDIA TITAN V product page (boost clock times cores)"),
    ("T4", 16, 8.1, 320, "7.5", "NVIDIA T4 datasheet (256 bits at 10 Gbps)"),
    ("GTX 1650", 4, 3.0, 128, "7.5", _page("GTX 1650", "GDDR5 card")),
    ("GTX 1650 SUPER", 4, 4.4, 192, "7.5", _page("GTX 1650 SUPER", _BOOST)),
    ("GTX 1660", 6, 5.0, 192, "7.5", _page("GTX 1660", _BOOST)),
    ("GTX 1660 SUPER", 6, 5.0, 336, "7.5", _page("GTX 1660 SUPER", _BOOST)),
    ("GTX 1660 Ti", 6, 5.4, 288, "7.5", _page("GTX 1660 Ti")),
    ("RTX 2060", 6, 6.5, 336, "7.5", _page("RTX 2060", "6 GB card")),
    ("RTX 2060 SUPER", 8, 7.2, 448, "7.5", _page("RTX 2060 SUPER", _BOOST)),
    ("RTX 2070", 8, 7.5, 448, "7.5", "NVIDIA Turing GPU Architecture whitepaper (reference clock)"),
    ("RTX 2070 SUPER", 8, 9.1, 448, "7.5", _page("RTX 2070 SUPER", _BOOST)),
    ("RTX 2080", 8, 10.1, 448, "7.5", "NVIDIA Turing GPU Architecture whitepaper (reference clock)"),
    ("RTX 2080 SUPER", 8, 11.2, 496, "7.5", _page("RTX 2080 SUPER", _BOOST)),
    ("RTX 2080 Ti", 11, 13.4, 616, "7.5", "NVIDIA Turing GPU Architecture whitepaper (reference clock)"),
    ("TITAN RTX", 24, 16.3, 672, "7.5", "NVIDIA TITAN RTX product page"),
    ("Quadro RTX 4000", 8, 7.1, 416, "7.5", "NVIDIA Quadro RTX 4000 datasheet"),
    ("Quadro RTX 5000", 16, 11.2, 448, "7.5", "NVIDIA Quadro RTX 5000 datasheet"),
    ("Quadro RTX 6000", 24, 16.3, 672, "7.5", "NVIDIA Quadro RTX 6000 datasheet"),
    ("Quadro RTX 8000", 48, 16.3, 672, "7.5", "NVIDIA Quadro RTX 8000 datasheet"),
)

AMPERE: tuple[Row, ...] = (
    ("RTX 3050 6GB", 6, 6.8, 168, "8.6", _page("RTX 3050", "6 GB card", _BOOST)),
    ("RTX 3050", 8, 9.1, 224, "8.6", _page("RTX 3050", "8 GB card")),
    ("RTX 3060", 12, 12.7, 360, "8.6", _page("RTX 3060", "12 GB card")),
    ("RTX 3060 Ti", 8, 16.2, 448, "8.6", _page("RTX 3060 Ti", "GDDR6 card", _BOOST)),
    ("RTX 3070", 8, 20.3, 448, "8.6", "NVIDIA Ampere GA102 GPU Architecture whitepaper"),
    ("RTX 3070 Ti", 8, 21.7, 608, "8.6", _page("RTX 3070 Ti", _BOOST)),
    ("RTX 3080", 10, 29.8, 760, "8.6", "NVIDIA Ampere GA102 GPU Architecture whitepaper (10 GB card)"),
    ("RTX 3080 12GB", 12, 30.6, 912, "8.6", _page("RTX 3080", "12 GB card", _BOOST)),
    ("RTX 3080 Ti", 12, 34.1, 912, "8.6", _page("RTX 3080 Ti", _BOOST)),
    ("RTX 3090", 24, 35.6, 936, "8.6", "NVIDIA Ampere GA102 GPU Architecture whitepaper"),
    ("RTX 3090 Ti", 24, 40.0, 1008, "8.6", _page("RTX 3090 Ti", _BOOST)),
    ("RTX 3050 Laptop", 4, 7.1, 192, "8.6", _LAPTOPS_30),
    ("RTX 3050 Ti Laptop", 4, 8.7, 192, "8.6", _LAPTOPS_30),
    ("RTX 3060 Laptop", 6, 13.1, 336, "8.6", _LAPTOPS_30),
    ("RTX 3070 Laptop", 8, 16.6, 448, "8.6", _LAPTOPS_30),
    ("RTX 3070 Ti Laptop", 8, 17.5, 448, "8.6", _LAPTOPS_30),
    ("RTX 3080 Laptop 8GB", 8, 21.0, 448, "8.6", _LAPTOPS_30),
    ("RTX 3080 Laptop 16GB", 16, 21.0, 448, "8.6", _LAPTOPS_30),
    ("RTX 3080 Ti Laptop", 16, 23.6, 512, "8.6", _LAPTOPS_30),
    ("A2", 16, 4.5, 200, "8.6", "NVIDIA A2 datasheet"),
    ("A10", 24, 31.2, 600, "8.6", "NVIDIA A10 product page"),
    ("A10G", 24, 35.0, 600, "8.6", "NVIDIA A10G datasheet (published by AWS)"),
    ("A16", 16, 4.5, 200, "8.6", "NVIDIA A16 datasheet (each of its four GPUs)"),
    ("A30", 24, 10.3, 933, "8.0", "NVIDIA A30 datasheet"),
    ("A40", 48, 37.4, 696, "8.6", "NVIDIA A40 datasheet"),
    ("RTX A2000 6GB", 6, 8.0, 288, "8.6", "NVIDIA RTX A2000 datasheet"),
    ("RTX A2000 12GB", 12, 8.0, 288, "8.6", "NVIDIA RTX A2000 12GB datasheet"),
    ("RTX A4000", 16, 19.2, 448, "8.6", "NVIDIA RTX A4000 datasheet"),
    ("RTX A4500", 20, 23.7, 640, "8.6", "NVIDIA RTX A4500 datasheet"),
    ("RTX A5000", 24, 27.8, 768, "8.6", "NVIDIA RTX A5000 datasheet"),
    ("RTX A6000", 48, 38.7, 768, "8.6", "NVIDIA RTX A6000 datasheet"),
    ("A100 40GB", 40, 19.5, 1555, "8.0", "NVIDIA A100 datasheet (SXM4)"),
    ("A100 80GB", 80, 19.5, 2039, "8.0", "NVIDIA A100 datasheet (SXM4)"),
)

ADA: tuple[Row, ...] = (
    ("RTX 4060", 8, 15.1, 272, "8.9", _page("RTX 4060")),
    ("RTX 4060 Ti 8GB", 8, 22.1, 288, "8.9", _page("RTX 4060 Ti", _BOOST)),
    ("RTX 4060 Ti 16GB", 16, 22.1, 288, "8.9", _page("RTX 4060 Ti", _BOOST)),
    ("RTX 4070", 12, 29.1, 504, "8.9", _page("RTX 4070", "GDDR6X card")),
    ("RTX 4070 SUPER", 12, 35.5, 504, "8.9", _page("RTX 4070 SUPER", _BOOST)),
    ("RTX 4070 Ti", 12, 40.1, 504, "8.9", _page("RTX 4070 Ti", _BOOST)),
    ("RTX 4070 Ti SUPER", 16, 44.1, 672, "8.9", _page("RTX 4070 Ti SUPER", _BOOST)),
    ("RTX 4080", 16, 48.7, 717, "8.9", "NVIDIA Ada GPU Architecture whitepaper"),
    ("RTX 4080 SUPER", 16, 52.2, 736, "8.9", _page("RTX 4080 SUPER", _BOOST)),
    ("RTX 4090", 24, 82.6, 1008, "8.9", "NVIDIA Ada GPU Architecture whitepaper"),
    ("RTX 4050 Laptop", 6, 12.1, 192, "8.9", _LAPTOPS_40),
    ("RTX 4060 Laptop", 8, 14.6, 256, "8.9", _LAPTOPS_40),
    ("RTX 4070 Laptop", 8, 20.0, 256, "8.9", _LAPTOPS_40),
    ("RTX 4080 Laptop", 12, 33.9, 432, "8.9", _LAPTOPS_40),
    ("RTX 4090 Laptop", 16, 39.7, 576, "8.9", _LAPTOPS_40),
    ("L4", 24, 30.3, 300, "8.9", "NVIDIA L4 product page"),
    ("L40", 48, 90.5, 864, "8.9", "NVIDIA L40 product page"),
    ("L40S", 48, 91.6, 864, "8.9", "NVIDIA L40S product page"),
    ("RTX 4000 Ada", 20, 26.7, 360, "8.9", "NVIDIA RTX 4000 Ada Generation datasheet"),
    ("RTX 5000 Ada", 32, 65.3, 576, "8.9", "NVIDIA RTX 5000 Ada Generation datasheet"),
    ("RTX 6000 Ada", 48, 91.1, 960, "8.9", "NVIDIA RTX 6000 Ada Generation datasheet"),
)

HOPPER_BLACKWELL: tuple[Row, ...] = (
    ("H100", 80, 66.9, 3350, "9.0", "NVIDIA H100 Tensor Core GPU Architecture whitepaper (SXM5)"),
    ("H100 PCIe", 80, 51.2, 2000, "9.0", "NVIDIA H100 PCIe GPU product brief PB-11133-001 (bandwidth at least)"),
    ("H100 NVL", 94, 60.0, 3900, "9.0", "NVIDIA H100 product page (NVL)"),
    ("H200", 141, 66.9, 4800, "9.0", "NVIDIA H200 product page (SXM, nominal GB)"),
    ("RTX 5060", 8, 19.2, 448, "12.0", _page("RTX 5060")),
    ("RTX 5060 Ti 8GB", 8, 23.7, 448, "12.0", _page("RTX 5060 Ti", _BOOST)),
    ("RTX 5060 Ti 16GB", 16, 23.7, 448, "12.0", _page("RTX 5060 Ti", _BOOST)),
    ("RTX 5070", 12, 30.9, 672, "12.0", "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
    ("RTX 5070 Ti", 16, 43.9, 896, "12.0", "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
    ("RTX 5080", 16, 56.3, 960, "12.0", "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
    ("RTX 5090", 32, 104.8, 1792, "12.0", "NVIDIA RTX Blackwell GPU Architecture whitepaper"),
    ("RTX 5070 Laptop", 8, 21.6, 448, "12.0", _LAPTOPS_50),
    ("RTX 5070 Ti Laptop", 12, 26.1, 672, "12.0", _LAPTOPS_50),
    ("RTX 5080 Laptop", 16, 35.1, 896, "12.0", _LAPTOPS_50),
    ("RTX 5090 Laptop", 24, 45.3, 896, "12.0", _LAPTOPS_50),
)

FIGURES: tuple[Row, ...] = (*PASCAL, *VOLTA_TURING, *AMPERE, *ADA, *HOPPER_BLACKWELL)
