// All texts of the page, in English and in Chinese. {0}, {1}... stand for values; **strong** and
// `code` are the only markup.

const TEXTS = {
  skip: ["To the connections", "跳到连接列表"],
  language: ["中文", "English"],
  "title.demo": ["A server and three clients", "一个服务器和三个客户端"],
  "title.none": ["Connecting", "正在连接"],
  "label.figures": ["All connections together", "所有连接合计"],
  "label.tape": ["The recording", "录制文件"],
  "label.position": ["Time in the recording", "录制中的时刻"],
  "label.lab": ["Things to try", "动手试试"],

  play: ["Play", "播放"],
  pause: ["Pause", "暂停"],
  speed: ["Speed", "速度"],
  clock: ["{0} of {1}", "{0} / {1}"],
  connections: ["Connections", "连接"],
  together: ["move the marks of all together", "一起移动所有连接的水位线"],
  show: ["Show", "显示"],
  "window.10": ["10 s", "10 秒"],
  "window.30": ["30 s", "30 秒"],
  "window.60": ["1 min", "1 分钟"],
  "window.120": ["2 min", "2 分钟"],
  freeze: ["Freeze", "定格"],
  reset: ["Reset", "重置"],
  "tour.start": ["Tour", "导览"],
  empty: ["Nobody is connected.", "还没有连接。"],
  "empty.hint": ["Nobody is connected. Try: {0}", "还没有连接。试试：{0}"],
  rest: [
    "and {0} more, less busy: {1} pending, {2} sent, {3} pauses together",
    "另有 {0} 个不太忙的连接，合计：积压 {1}，已发送 {2}，暂停 {3} 次",
  ],

  // The figures at the top.
  "figure.open": ["connections", "连接"],
  "figure.out": ["throughput", "吞吐量"],
  "figure.pauses": ["pauses", "暂停"],
  "figure.pending": ["pending now", "当前积压"],
  "figure.highest": ["most for one so far", "单个连接的最大积压"],
  "figure.lag": ["loop lag", "循环延迟"],
  "figure.memory": ["memory", "内存"],
  "open.now": ["{0} open, {1} so far", "当前 {0}，累计 {1}"],
  unknown: ["not known here", "此系统无法得知"],

  // The targets of a proxy.
  targets: ["Targets", "后端目标"],
  "target.name": ["target", "目标"],
  "target.state": ["state", "状态"],
  "target.clients": ["clients", "客户端"],
  "target.failures": ["failures", "失败"],
  "target.connect": ["connect", "连接耗时"],
  "target.up": ["up", "可用"],
  "target.down": ["down", "不可用"],
  "target.draining": ["draining", "排空中"],
  "target.backup": [", backup", "，备用"],

  // The state of the page itself.
  "status.connecting": ["connecting", "正在连接"],
  "status.live": ["live", "实时"],
  "status.loading": ["loading", "正在载入"],
  "status.resting": ["resting while nobody looks", "无人查看，已休眠"],
  "status.refused": [
    "the server refuses: open the address that it has printed",
    "服务器拒绝访问：请打开它打印出来的地址",
  ],
  "status.gone": ["the server has gone; these are its last figures", "服务器已退出，下面是最后的数据"],
  "status.token": [
    "this address lacks the token: open the one that the server has printed",
    "地址里缺少令牌：请打开服务器打印出来的完整地址",
  ],
  "status.empty": ["the recording has no samples", "录制文件里没有样本"],
  "status.recorded": ["recorded, {0} min", "录制，时长 {0}"],
  "refused": ["Refused: {0}", "被拒绝：{0}"],
  "silent": ["The server does not answer.", "服务器没有响应。"],

  // The demo's switches.
  flow: ["Flow control", "流量控制"],
  on: ["on", "开"],
  off: ["off", "关"],
  "flow.true": [
    "Above the high mark, the producer gets `pauseProducing()` and stops. Memory stays flat.",
    "积压超过高水位线时，生产者收到 `pauseProducing()` 并停下。内存保持平稳。",
  ],
  "flow.false": [
    "The producer never stops. What the clients do not read piles up: **look at the memory**. At a safe limit the demo stops it.",
    "生产者从不停下，客户端没读走的数据越积越多：**请看内存**。到达安全上限时，演示会让它停下。",
  ],
  low: ["Low mark", "低水位线"],
  "low.name.quarter": ["quarter", "四分之一"],
  "low.name.zero": ["zero", "零"],
  "low.name.near": ["next to high", "紧挨高水位"],
  "low.quarter": [
    "A quarter of the high mark: this rest bridges the time until the producer has started again.",
    "高水位线的四分之一：剩下的数据正好撑到生产者重新开始。",
  ],
  "low.zero": [
    "Nothing is left when the producer is resumed, and it needs a while to start. **Look for gaps** in the rate.",
    "恢复生产者时已经一点不剩，而它启动还要时间。**注意流量曲线的空档**。",
  ],
  "low.near": [
    "Hardly any distance: the producer stops and starts for every few bytes. **Look at the pauses a second.**",
    "两条水位线几乎重合：每几个字节就要停一次、启一次。**注意每秒暂停的次数**。",
  ],
  "low.own": ["You have moved the marks yourself.", "水位线已由你自己移动。"],
  producer: ["Producer", "生产者"],
  "producer.name.push": ["push", "推式"],
  "producer.name.pull": ["pull", "拉式"],
  "producer.push": ["The producer writes on its own until it is paused.", "生产者自己不停地写，直到被暂停。"],
  "producer.pull": [
    "The producer writes one piece each time it is asked, when pending is at or below the low mark. No pause is needed.",
    "生产者每次被请求才写一块：积压降到低水位线或以下时才会有请求。不需要暂停。",
  ],
  makes: ["makes", "每秒产生"],
  starts: ["starts after", "启动延迟"],
  "label.made": ["What the producer makes in a second", "生产者每秒产生的数据"],
  "label.delay": ["Time that the producer needs to start again", "生产者重新启动所需的时间"],
  once: ["at once", "无"],
  way: ["Way", "连接方式"],
  "way.name.direct": ["direct", "直连"],
  "way.name.proxy": ["through a proxy", "经过代理"],
  "way.direct": ["The clients are connected to the server.", "客户端直接连到服务器。"],
  "way.proxy": [
    "Each client has two connections. When the one to the client is full, the proxy stops reading from the server, and the other one fills up: **back-pressure travels upstream**.",
    "每个客户端有两条连接。通向客户端的那条满了，代理就不再读服务器，另一条也随之变满：**背压向上游传递**。",
  ],
  "clients.tips": [
    "Make a client slow with its slider, or let it **vanish**: it reads no more and says no goodbye. Drag the **marks** at the right of a chart: the server obeys at once.",
    "用滑块让某个客户端变慢，或让它**消失**：不再读取，也不道别。拖动图右侧的**水位线**，服务器立即照办。",
  ],
  buffers: [
    "The demo makes the kernel’s buffers small: {0} to send, {1} to receive. The usual buffers would swallow megabytes before any byte becomes pending.",
    "演示把内核缓冲区调小了：发送 {0}，接收 {1}。若用默认大小，要先吞下几兆字节，上面才会出现积压。",
  ],
  client: ["Client {0}", "客户端 {0}"],
  reads: ["reads", "读取"],
  nothing: ["nothing", "0"],
  "label.reads": ["What client {0} reads in a second", "客户端 {0} 每秒读取的数据"],
  vanish: ["Vanish", "消失"],
  back: ["Come back", "回来"],
  "absent.vanished": [
    "The client reads no more and says no goodbye, as when a cable is pulled. To the server this is a slow client, until the client has taken nothing for {0} s.",
    "客户端不再读取，也不道别，就像网线被拔掉。对服务器来说它只是个慢客户端，直到连续 {0} 秒什么都没收走。",
  ],
  "absent.reads-nothing": [
    "The client reads nothing. After {0} s the server gives the client up.",
    "客户端什么也不读。这样过 {0} 秒，服务器就放弃它。",
  ],
  "absent.given-up": [
    "The server has given the client up, because the client took nothing for {0} s. The server keeps nothing for this client any more.",
    "客户端连续 {0} 秒什么都没收走，服务器已放弃它，不再为它保留任何数据。",
  ],
  "notice.limit": [
    "{0} wait in the buffers: here the demo stops the producers. A server would go on until its memory is full. Now switch flow control on again.",
    "缓冲区里已积压 {0}：演示在这里让生产者停下。真正的服务器会一直写到内存耗尽。现在请重新打开流量控制。",
  ],
  "notice.overfull": [
    "The connections with overfull buffers were closed, and the clients have come back. Draining these buffers would have taken minutes.",
    "缓冲区过满的连接已被关闭，客户端又重新连上。要把那些积压发完得花好几分钟。",
  ],

  // A connection.
  "leg.server-client": ["server to client", "服务器 → 客户端"],
  "leg.server-proxy": ["server to proxy", "服务器 → 代理"],
  "leg.proxy-client": ["proxy to client", "代理 → 客户端"],
  "state.none": ["no producer", "无生产者"],
  "state.flowing": ["flowing", "流动"],
  "state.paused": ["paused", "已暂停"],
  "state.pull": ["pull", "拉式"],
  "state.closed": ["closed", "已关闭"],
  "state.closing": ["closing", "正在关闭"],
  "state.ending": ["ending", "正在结束"],
  "facts.one": ["1 pause, {1}/s; paused {2} % of the time", "暂停 1 次，每秒 {1} 次；{2}% 的时间处于暂停"],
  "facts.many": ["{0} pauses, {1}/s; paused {2} % of the time", "暂停 {0} 次，每秒 {1} 次；{2}% 的时间处于暂停"],
  "label.chart": [
    "Pending over time: {0} now, high mark {1}, low mark {2}, {3} pauses, paused {4} % of the time",
    "积压随时间的变化：现在 {0}，高水位线 {1}，低水位线 {2}，暂停 {3} 次，{4}% 的时间处于暂停",
  ],
  "say.lost": ["Lost. {0}", "连接已断开。{0}"],
  "say.closing": ["Closing: what is pending still goes out.", "正在关闭：积压的数据仍会发完。"],
  "say.near": [
    "Paused and resumed {0} times a second: the marks are too close together.",
    "每秒暂停、恢复 {0} 次：两条水位线靠得太近了。",
  ],
  "say.fast": [
    "Paused and resumed {0} times a second, too fast to draw. The depth of the shading shows the share of paused time.",
    "每秒暂停、恢复 {0} 次，快得画不出来：底色深浅表示暂停时间所占的比例。",
  ],
  "say.stalled": [
    "Paused, and the peer takes nothing: it is stalled, or has vanished.",
    "已暂停，对端什么都不收：它卡住了，或者消失了。",
  ],
  "say.paused": [
    "Paused above the high mark, until pending has fallen to the low mark.",
    "已暂停：积压超过了高水位线，降到低水位线才会恢复。",
  ],
  "say.pull": [
    "Asked for more whenever pending is at or below the low mark.",
    "只要积压在低水位线或以下，就请求下一块数据。",
  ],
  "say.unpaused": ["Above the high mark, but there is no producer to pause.", "超过了高水位线，但没有生产者可以暂停。"],
  "say.none": ["No producer is registered, so none can be paused.", "没有注册生产者，也就没有谁可以暂停。"],
  "say.keeps": ["The peer keeps up: hardly anything waits.", "对端跟得上，几乎没有积压。"],
  "say.flowing": [
    "Flowing: the producer writes until pending exceeds the high mark.",
    "流动中：生产者一直写，直到积压超过高水位线。",
  ],
  high: ["high", "高"],
  "low.mark": ["low", "低"],
  "label.memory": ["Memory over time: {0} now, of which {1} are pending", "内存随时间的变化：现在 {0}，其中积压 {1}"],
  "label.mark.high": ["high mark of connection {0}, {1}", "连接 {0}（{1}）的高水位线"],
  "label.mark.low": ["low mark of connection {0}, {1}", "连接 {0}（{1}）的低水位线"],
  "axis.now": ["now", "现在"],
  "axis.ago": ["-{0} s", "-{0} 秒"],
  "axis.queue": ["kernel", "内核"],
  "axis.rate": ["rate", "流量"],
  seconds: ["{0} s", "{0} 秒"],

  // The living pipe.
  "pipe.title": ["The pipe of one connection", "一条连接的管道"],
  "pipe.of": ["The pipe of {0}", "管道：{0}"],
  "pipe.text": [
    "Drops are bytes on their way. The floats on the second tank are the marks; a pause closes the tap. Choose a connection by its name.",
    "水滴是途中的字节。第二个水箱上的浮标是水位线；暂停就是把阀门关上。点击连接的名称即可选择。",
  ],
  "pipe.label": [
    "From the producer to the client: {0} pending, {1} in our kernel, {2} in the peer’s kernel; the tap is {3}",
    "从生产者到客户端：积压 {0}，本机内核 {1}，对端内核 {2}；阀门{3}",
  ],
  "tap.open": ["open", "打开"],
  "tap.closed": ["closed", "关闭"],
  "tap.none": ["missing", "不存在"],
  "pipe.producer": ["producer", "生产者"],
  "pipe.pending": ["pending", "积压"],
  "pipe.ours": ["our kernel", "本机内核"],
  "pipe.theirs.peer": ["peer kernel", "对端内核"],
  "pipe.theirs.proxy": ["proxy kernel", "代理内核"],
  "pipe.theirs.client": ["client kernel", "客户端内核"],
  "pipe.peer": ["peer", "对端"],
  "pipe.client": ["client", "客户端"],
  "pipe.proxy": ["proxy", "代理"],
  "pipe.hidden": ["not visible from here", "本机看不到"],

  // The memory, and how to read the page.
  memory: ["Memory", "内存"],
  "memory.process": ["the process, and in it", "整个进程，其中"],
  "memory.pending": [
    "all that is pending. With flow control, memory is flat, however slowly a client reads.",
    "是全部积压。有流量控制时，不管客户端读得多慢，它都是平的。",
  ],
  legend: ["How to read it", "怎么看这些图"],
  "legend.pending": ["pending", "积压（pending）"],
  "legend.pending.text": [
    "Bytes that the application has written and the kernel has not taken. Pending rises as the producer writes and falls as the peer reads: a saw-tooth.",
    "应用程序写了、内核还没收下的字节。生产者写，它就涨；对端读，它就落：一条锯齿线。",
  ],
  "legend.high": ["high mark", "高水位线"],
  "legend.high.text": [
    "The high watermark. When pending exceeds this mark, the producer gets `pauseProducing()`.",
    "积压一旦超过它，生产者就收到 `pauseProducing()`。",
  ],
  "legend.low": ["low mark", "低水位线"],
  "legend.low.text": [
    "The low watermark. When pending has fallen to this mark, the producer gets `resumeProducing()`.",
    "积压降到它，生产者就收到 `resumeProducing()`。",
  ],
  "legend.drag": [
    "Drag a mark, or move it with the arrow keys: the server obeys.",
    "拖动水位线，或用方向键移动，服务器立即照办。",
  ],
  "legend.paused": ["paused", "已暂停"],
  "legend.paused.text": [
    "The producer has to wait. The depth of the shading shows the share of paused time.",
    "生产者必须等待。底色深浅表示暂停时间所占的比例。",
  ],
  "legend.kernel": ["kernel", "内核队列"],
  "legend.kernel.text": [
    "Bytes that our kernel has taken and the peer’s has not acknowledged. The kernel fills first; only then do bytes become pending.",
    "本机内核已收下、对端内核尚未确认的字节。先满的是这里，然后上面才会出现积压。",
  ],
  "legend.rate": ["rate", "流量"],
  "legend.rate.text": [
    "The bytes that go through in a second. Good marks cost no throughput: look for gaps.",
    "每秒通过的数据。水位线设得好，流量不受影响：注意有没有空档。",
  ],
  "legend.lag": ["loop lag", "循环延迟"],
  "legend.lag.text": [
    "How late the loop comes to a timer. One slow callback makes everybody wait.",
    "事件循环处理定时器晚了多久。一个慢回调会让所有人等待。",
  ],

  // The tour.
  "tour.do": ["Do it for me", "替我操作"],
  "tour.next": ["Next", "下一步"],
  "tour.skip": ["Skip the tour", "跳过导览"],
  "tour.end": ["Done", "完成"],
  "tour.step": ["{0} of {1}", "{0} / {1}"],
  "tour.hello": ["Follow the bytes", "跟着字节走"],
  "tour.hello.text": [
    "A server sends to three clients. Each row is one way: producer, **pending**, our kernel, the peer’s kernel, client. The tour takes a minute and begins by itself.",
    "一个服务器向三个客户端发送数据。每一行是一条通路：生产者、**积压**、本机内核、对端内核、客户端。导览约一分钟，会自动开始。",
  ],
  "tour.fast": ["Client A reads fast", "客户端 A 读得很快"],
  "tour.fast.text": [
    "The producer is slowed down for the tour. A takes everything at once, so **A’s tanks are empty**.",
    "导览期间生产者放慢了速度。A 来多少收多少，所以**它的水箱是空的**。",
  ],
  "tour.slow": ["Make A slow", "让 A 变慢"],
  "tour.slow.text": ["Move A’s slider to the left, below 40 KiB/s.", "把 A 的滑块往左拖，降到 40 KiB/s 以下。"],
  "tour.fill": ["Which tank fills first?", "哪个水箱先满？"],
  "tour.fill.text": ["Watch A’s tanks. Each tank appears here when it fills:", "看 A 的水箱。哪个变满，就列在这里："],
  "tour.fill.theirs": ["the peer’s kernel", "对端内核"],
  "tour.fill.ours": ["our kernel", "本机内核"],
  "tour.fill.pending": ["pending, up to the high mark", "积压，直到高水位线"],
  "tour.paused": ["Paused: the tap closes", "暂停：阀门关上了"],
  "tour.paused.text": [
    "The jam has grown from the client back to pending. Pending exceeded the high mark, and the producer got `pauseProducing()`. A still reads, so the level falls. **At the low mark the tap opens** again.",
    "堵塞从客户端一步步退回到积压。积压超过高水位线，生产者收到 `pauseProducing()`。A 还在读，水位慢慢下降。**降到低水位线，阀门重新打开**。",
  ],
  "tour.off": ["Now switch flow control off", "现在关闭流量控制"],
  "tour.off.text": ["Nobody will tell the producer to stop.", "再也没有人叫生产者停下。"],
  "tour.memory": ["Look at the memory", "请看内存"],
  "tour.memory.text": [
    "What the clients do not read piles up in the process. With enough clients, **the system kills it**.",
    "客户端没读走的数据都积压在进程里。这样的客户端一多，**系统就会杀掉进程**。",
  ],
  "tour.on": ["Switch it on again", "重新打开"],
  "tour.on.text": ["Two marks and one pause are all it takes.", "只要两条水位线，加上暂停。"],
  "tour.over": ["That is flow control", "这就是流量控制"],
  "tour.over.text": [
    "All is as at the start. Now drag the marks, put a proxy in between, let a client vanish. `minireactor learn` tells the whole story.",
    "一切已恢复原样。接下来可以拖动水位线、接入代理、让客户端消失。完整的讲解：`minireactor learn --lang zh`。",
  ],
};

const LANGUAGES = ["en", "zh"];
let language = "en";

/** The text for a key in the chosen language, with values in place of {0}, {1}... */
function t(key, ...values) {
  const text = TEXTS[key] ? TEXTS[key][LANGUAGES.indexOf(language)] : key; // a recording has odd words
  return text.replace(/\{(\d)\}/g, (_, number) => values[number] ?? "");
}

/** Show a text, as text alone; its **strong** and `code` parts become elements. */
function put(element, text) {
  const parts = text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).filter(Boolean);
  element.replaceChildren(
    ...parts.map((part) => {
      const tag = part.startsWith("**") ? "strong" : part.startsWith("`") ? "code" : null;
      if (!tag) return part;
      const inner = document.createElement(tag);
      inner.textContent = part.replace(/^(\*\*|`)|(\*\*|`)$/g, "");
      return inner;
    }),
  );
}

/** Put the texts of a part of the page in place, or of all of it. */
function putTexts(root = document) {
  for (const element of root.querySelectorAll("[data-text]")) put(element, t(element.dataset.text));
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label));
  }
}

/** The language that the reader chose here before, or else the browser's. */
function firstLanguage() {
  const stored = remembered("language");
  if (LANGUAGES.includes(stored)) return stored;
  return (navigator.languages[0] || navigator.language).toLowerCase().startsWith("zh") ? "zh" : "en";
}

function setLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  putTexts();
  $("language").lang = chosen === "zh" ? "en" : "zh-CN";
}

// What the browser keeps for this address. It may refuse to, and then nothing is remembered.

function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // The choice holds until the page is left.
  }
}
