"""Clinfra and its peers, measured side by side on one machine: `python -m benchmarks`.

One file per feature measured (`hot`, `pass_through`, `blob`, `image`), which says what
is compared and which bars hold.  `peers` configures the servers, `servers` runs and
reaps them, `load` drives them, `rounds` interleaves, `figures` are the values and
`table` prints them.  `plain_site`, `file_store` and `resizers` are programs of their
own: peers we had to write.
"""
