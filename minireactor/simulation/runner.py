"""Run a scenario with many seeds, and say how to repeat the first failure in fewer steps.

    def scenario(network):
        ...
        network.run(60)

    simulate(scenario, seeds=1000)

A failure says `MINIREACTOR_SEED=417:233`: with this environment variable, simulate() runs seed 417
alone, and the network is calm after step 233.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Callable

from minireactor.simulation.network import Network, SimulationError

VARIABLE = "MINIREACTOR_SEED"
MAX_SHORTER_RUNS = 40

Scenario = Callable[[Network], object]


def simulate(
    scenario: Scenario,
    seeds: int | Iterable[int] = 100,
    finish: bool = True,
    shrink: bool = True,
) -> int:
    """Call `scenario(network)` once for each seed; return the number of steps of all runs.

    seeds: how many, from 0 on; or the seeds themselves.
    finish: call network.finish() at the end of each run.
    shrink: whether to look for a shorter run with the same failure. It takes some 20 more runs.

    Both the library and programs draw from the module `random`. It is seeded for each run, and gets
    its state back at the end. Raises SimulationError at the first failure: its message has the
    seed, and the smallest number of steps with which the run still fails. Raises ValueError if the
    environment variable does not name a seed."""
    wanted = os.environ.get(VARIABLE)
    state = random.getstate()
    steps = 0
    try:
        if wanted:
            return _run(scenario, *_parsed(wanted), finish)
        for seed in range(seeds) if isinstance(seeds, int) else seeds:
            try:
                steps += _run(scenario, seed, None, finish)
            except SimulationError as error:
                if not shrink:
                    raise
                raise _shortened(scenario, seed, error, finish) from error
    finally:
        random.setstate(state)
    return steps


def _parsed(text: str) -> tuple[int, int | None]:
    seed, _, steps = text.partition(":")
    try:
        return int(seed), int(steps) if steps else None
    except ValueError:
        raise ValueError(
            f"{VARIABLE}={text!r} is not a seed; give 417 or, with steps, 417:233"
        ) from None


def _run(scenario: Scenario, seed: int, steps: int | None, finish: bool) -> int:
    random.seed(seed)
    network = Network(seed, steps)
    try:
        scenario(network)
        if finish:
            network.finish()
    except SimulationError:
        raise
    except Exception as error:  # an assertion of the scenario itself
        message = f"{type(error).__name__}: {error} (seed {seed}, step {network.step})"
        raise SimulationError(message, seed, network.step) from error
    finally:
        network.close()
    return network.step


def _shortened(
    scenario: Scenario, seed: int, error: SimulationError, finish: bool
) -> SimulationError:
    """Return the failure of the shortest run of the same kind that is found, by halving."""
    best, passes, fails = error, 0, error.step
    for _ in range(MAX_SHORTER_RUNS):
        if fails - passes <= 1:
            break
        middle = (passes + fails) // 2
        try:
            _run(scenario, seed, middle, finish)
        except SimulationError as shorter:
            if shorter.kind == error.kind:
                best, fails = shorter, middle
                continue
        passes = middle
    return SimulationError(f"{best.message}\nRepeat: {VARIABLE}={seed}:{fails}", seed, fails)
