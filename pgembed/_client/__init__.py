"""What the synchronous and the asynchronous client share: all but the I/O.

`names` and `values` check and convert arguments, `results` converts rows, and
`flows` says which statements a call runs, in what order. `pgembed.client` and
`pgembed.aclient` carry these steps out.
"""
