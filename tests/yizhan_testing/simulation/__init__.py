"""Several homeservers, a faulty network and their people, all in one deterministic process.

    PYTHONHASHSEED=0 .venv/bin/python -m yizhan_testing.simulation --seed 7

plays seed 7 and ends with 0 if all servers and all clients agree in the end. The same seed plays
the same way again, event by event: time stands still while anything is to be done
(`virtual_time`), nothing runs in a thread (`inline_writer`), whatever is drawn is drawn from the
seed, and requests travel in memory (`network`). Everything above the transport is the product.
"""
