"""
A world to break things in: the production kernel, its hosts and its components in one process, under faults.

    world      one run of the whole system, with every invariant checked after every step
    disk       a disk that is slow, full, torn, or forgets
    network    links that delay, drop, repeat and part
    faults     what goes wrong in a run, drawn from its seed
    shrink     the fewest faults that still break it
    campaign   many seeds, on every core

`tickerml dev simulate` is its door; docs/simulation.md says how to read what it prints.
"""
