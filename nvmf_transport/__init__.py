"""NVMe over Fabrics without a transport of its own: structures, errors, capsules, interfaces.

`wire` declares structures; `nvme`, `identify`, `logs`, `fabrics` and `status` are the
specifications' tables; `nqn` and `address` check names; `capsule` and `interfaces` are where the
layers meet; `loop` is the transport in memory.
"""
