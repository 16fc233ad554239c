"""minireactor beside its peers: `python -m bench` compares, `pytest bench` times the parts.

How `python -m bench` measures:

- Each engine serves each workload in a process of its own; the clients are other processes. The
  server has a core to itself where the machine allows that. The engines take turns in each round.
- The main figure is mostly the server's CPU time, user and system, after a warm-up. CPU time holds
  on shared machines; throughput and latency may be limited by the clients, written in Python.
- A ratio is taken within a round, and the median of the ratios is shown. A ratio therefore need
  not be the quotient of the medians.
- The proxy workloads measure the proxy; its clients and its target are one process. Children of
  socat count as socat. The warm-up compares every byte, and afterwards one read in 16 is compared.
- Every byte is counted at the client. A run fails if it loses a byte or its server logs an error.
- Twisted has only a high mark and resumes at zero; the proxies in C have buffers of a fixed size.
- Sockets are as each engine makes them: minireactor, asyncio, uvloop and HAProxy switch
  TCP_NODELAY on; Twisted, raw and socat leave it off. All connections are on loopback.
- Each server first frees one large block. The C library maps large blocks anew until it has seen
  one freed, a factor of four for asyncio's small messages, which it reads into 256 KiB.
- PyPy compiles while it runs, and its figures contain that.
"""
