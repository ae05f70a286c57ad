"""The commands about this machine: verify, calibrate, devices."""

from __future__ import annotations

from typing import Annotated

import typer

from memplan.app.commands import print_json
from memplan.app.options import AsJson
from memplan.catalog.gpus import GPUS
from memplan.device.links import gpu_link
from memplan.device.present import usable_threads
from memplan.workload.rules import obstacle


def verify(
    count: Annotated[int, typer.Option(min=1, help="Random workloads to run.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed draws the same workloads.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest relative error of a peak.")] = 0.005,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Compare predicted with measured memory on this machine; exit status 1 where an error exceeds the tolerance."""
    from memplan.app.jobs.measure import run_verification

    found = run_verification(count, seed, device, show_progress=not as_json)
    if as_json:
        rows = [{"workload": v.workload.model_dump(), "check": v.check.model_dump(exclude_none=True)} for v in found]
        print_json({"tolerance": tolerance, "rows": rows})
    else:
        from memplan.app.views.tables import verification_report
        from memplan.app.views.terminal import make_console

        make_console().print(verification_report([(v.workload, v.check) for v in found]))
    if max(abs(v.check.peak.relative_error) for v in found) > tolerance:
        raise typer.Exit(1)


def calibrate(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine trains (on CUDA also context and workspace); plans for it use that from then on."""
    from memplan.app.jobs.measure import run_calibration

    found, path = run_calibration(device, show_progress=not as_json)
    if as_json:
        print_json(found)
    else:
        from memplan.app.views.tables import calibration_report
        from memplan.app.views.terminal import make_console

        make_console().print(calibration_report(found))
        make_console().print(f"kept in {path}", soft_wrap=True)


def devices(as_json: AsJson = False) -> None:
    """List what is here to train on, and the GPUs that can be planned for by name."""
    from memplan.app.views.devices import WHY_NO_FUSED, gpu_listing, without_fused
    from memplan.app.views.terminal import make_console
    from memplan.device.present import free_ram_bytes, present_gpus
    from memplan.units import format_bytes

    free, limit = free_ram_bytes()
    here = present_gpus()
    if as_json:
        print_json(
            {
                "cpu": {"free_bytes": free, "limit": limit, "threads": usable_threads()},
                "gpus": [gpu._asdict() for gpu in here],
                "catalog": [
                    {
                        "name": gpu.name,
                        "memory_bytes": gpu.memory_bytes,
                        "source": gpu.source,
                        "capability": list(gpu.capability),
                        "link_bytes_per_second": gpu_link(gpu).bytes_per_second,
                        "no_fused_l1": obstacle("l1", "fused", "cuda", gpu.capability),
                    }
                    for gpu in GPUS.values()
                ],
            }
        )
        return
    console = make_console()
    console.print(f"cpu   {usable_threads()} threads, {format_bytes(free)} free ({limit})")
    for gpu in here:
        console.print(f"cuda  {gpu.name}, {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}")
        for process, used in gpu.processes:
            console.print(f"      process {process} holds {format_bytes(used) if used else 'some of it'}")
    if not here:
        console.print("cuda  no NVIDIA GPU or driver found")
    console.print()
    console.print(gpu_listing(console))
    console.print(
        f"no fused L1 on {', '.join(without_fused())}: {WHY_NO_FUSED}; chunked and materialized run there, and so do "
        "the fused dot and l2 scores",
        soft_wrap=True,
    )
    console.print("--device takes each of these names, and a size such as 8GiB for a GPU that is not here to see")
