"""Clinfra and its peers, measured side by side on one machine: `python -m benchmarks`.

One file per feature measured (`hot`, `pass_through`, `blob`, `cluster`, and `image_`
with sizes, formats, http, workers or memory), which says what is compared and which
bars hold.  `peers` and `image_peers` configure the servers, `servers` runs and reaps
them, `load` and `asking` drive them, `alone` runs programs without HTTP, `needs` and
`photographs` get what must be there, `rounds` interleaves, `figures` are the values and
`table` prints them.  `plain_site`, `file_store`, `resizers`, `sharp_ways.js`,
`converters`, `largest` and `watched` are programs of their own.
"""
