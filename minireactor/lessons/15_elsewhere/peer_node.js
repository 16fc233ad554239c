// Node: pipe() stops reading from the source while the socket's buffer is above its mark.

const net = require("net");
const { Readable } = require("stream");

const CHUNK = Buffer.alloc(16 * 1024);
const TOTAL = 16 * 1024 * 1024;

const server = net.createServer((socket) => {
  let made = 0;
  let held = 0;
  const source = new Readable({
    read() {
      this.push(made < TOTAL ? CHUNK : null);
      made += CHUNK.length;
      held = Math.max(held, this.readableLength + socket.writableLength);
    },
  });
  source.pipe(socket);
  socket.on("close", () => {
    console.log(held);
    server.close();
  });
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
