"""Where the root key may live beside a file. Each module here is a plug-in: `wrap`, `unwrap`, `describe` (`Root`).

The root is asked when the vault starts and when an epoch begins: a handful of calls a day, so its latency and its price
do not matter. Another service is a class with these three methods, brought by any package (`vault.roots.PLUG_INS`).
"""
