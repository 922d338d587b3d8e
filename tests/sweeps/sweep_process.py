"""A sweep in a process of its own: to be killed, on two devices, or one of two processes."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import nc_jax as nc
from nc_jax import storage


def observe(state):
    return {"margin": jnp.min(state.logits()), "features": state.features}


def run(key, shared):
    problem = nc.ulpm(3, 4, 2)
    return nc.gradient_flow(
        problem, problem.init(key), nc.log_times(3, 3), rtol=1e-6, observe=observe,
        shared_steps=shared == "yes",
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--process", type=int)
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", args.devices)
    if args.process is not None:
        jax.distributed.initialize(f"127.0.0.1:{args.port}", 2, args.process)
    grid = {"shared": ["yes", "no"]}
    print("started", jax.device_count(), flush=True)
    options = {"grid": grid, "batch_size": args.batch_size, "progress": False}
    dataset = nc.sweep(run, args.seeds, path=args.path, **options)
    if args.process is not None:
        # Each process has all the data in memory too.
        in_memory = nc.sweep(run, args.seeds, **options)
        storage.save(in_memory, f"{args.path}.{args.process}")
        for name in dataset.data_vars:
            np.testing.assert_array_equal(dataset[name], in_memory[name])


if __name__ == "__main__":
    main()
