"""minireactor and its peers: `python -m bench` compares them, `pytest bench` times parts of ours.

How `python -m bench` measures:

- Each engine does each workload in a process of its own; the clients are other processes. The
  server has a core to itself if the machine allows that. The engines take turns in each round.
- The main figure is mostly the server's CPU time, user and system, after a warm-up. CPU time is
  steady on shared machines. Throughput and latency may be limited by the clients: they are Python.
- A ratio is taken within a round. The tables show the median of the rounds' ratios, which need not
  be the quotient of the medians.
- The proxy workloads measure the proxy. The proxy's clients and its target are one process. For
  socat, all processes that it forks count.
- In the warm-up of a proxy every byte is compared, and afterwards one read in 16.
- The clients count every byte. A run fails if a byte is lost or the server logs an error.
- Twisted has only a high mark, and resumes producers at zero. The proxies in C have buffers of a
  fixed size.
- Sockets keep the options that each engine gives them. The tables name the engines that leave
  TCP_NODELAY off.
- All connections are on loopback, or with `--veth` between two network namespaces.
- Each server first frees one large block. Until a block is freed, the C library maps each large
  block anew. Small messages on asyncio would then cost four times as much, because asyncio reads
  into 256 KiB.
- PyPy compiles while it runs, and its figures contain the cost of this.

Nothing in minireactor imports `bench`. Read `workloads` first, then `measure`, which runs the
processes, and `load`, which is the clients.
"""
