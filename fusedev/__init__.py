"""The mount: NVMe controllers and namespaces as files in a FUSE directory.

`nodes` says what lies in the directory, `handles` what an open file does, `xattrs` what is told
about it; none of the three knows FUSE.  `operations` is the adapter to pyfuse3, `errnos` the one
table of errors, `mount` chooses and checks the directory and makes the mount, `daemon` runs it from
start to orderly end, and `main` puts it all together with a host and the TCP transport.
"""
