"""A journal that loses no entry it has acknowledged, for deployments without a pause.

What a writer sends is kept in the broker, once, then told to everybody, then acknowledged. `QUEUE_URL` is the address of the
broker. Each process also answers `/healthz` and `/metrics`.
"""
