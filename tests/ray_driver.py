"""A driver of its own, to be killed: `python -m ray_driver ADDRESS FOLDER CELLS` computes squares into FOLDER/store."""

import sys

import ray
import ray_tasks

from tl_crossenc.executors.on_ray import OnRay
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.cells import Store


def tasks_of(folder, cells):
    """In tasks of six cells, each a quarter of a second."""
    return [
        ray_tasks.Squares(tuple(range(start, min(start + 6, cells))), folder, f"{folder}/store", seconds=0.25)
        for start in range(0, cells, 6)
    ]


def main(address, folder, cells):
    ray.cloudpickle.register_pickle_by_value(ray_tasks)
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    with OnRay(address, cpus_per_actor=1, actors=2, patience=120) as executor:
        executor.run(model, tasks_of(folder, int(cells)), Store(f"{folder}/store"))


if __name__ == "__main__":
    main(*sys.argv[1:])
