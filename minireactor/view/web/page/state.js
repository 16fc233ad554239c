"use strict";

// What the server sends is a stream of samples, see view/monitor.py. Each goes through feed(), whether
// it comes now or out of a recording; draw() shows what has been fed. Text from outside is only
// ever put into textContent.

const $ = (id) => document.getElementById(id);
const mode = document.documentElement.dataset.mode; // "live", "demo" or "replay"
const token = location.hash.slice(1); // in the fragment, which browsers send to nobody
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const GUTTER = { wide: 140, narrow: 124 }; // pixels right of each chart: the tank, and the handles
const TANK = 22;
const LONGEST = 125; // seconds of history that are kept: a little more than the longest window
const RATE_OVER = 0.25; // seconds that a throughput is averaged over
const GOODBYE = 5; // seconds for which a connection that has ended is still shown
const ABSENCE = 1.5; // seconds after which one that is not among the busiest any more is shown no more
const TEXT_EVERY = 200; // milliseconds between two changes of the numbers, which are to be read
const CALM_EVERY = 1000; // milliseconds between two pictures where less motion is wanted

let colour = {};
let span = 30; // seconds that the charts show
let now = 0; // of the samples' clock: the right edge of the charts
let held = null; // while the picture is frozen, the samples that have come meanwhile
let absence = ABSENCE;
let latest = null; // the last sample
let drawing = false;
let textDue = 0;
let pictureDue = 0;
const plots = new Map(); // by the connection's id
const clients = new Map(); // of the demo, by name
const reasons = new Map(); // why connections were lost, by id
const whole = { t: [], memory: [], pending: [], out: [], pauses: [], lag: [] };
