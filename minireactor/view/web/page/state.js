"use strict";

// The server sends a stream of samples, see view/monitor.py. Each goes through feed(), whether it
// comes now or out of a recording; draw() shows what has been fed. Text from outside is only ever
// put into textContent.

const $ = (id) => document.getElementById(id);
const mode = document.documentElement.dataset.mode; // "live", "demo" or "replay"
const token = location.hash.slice(1); // in the fragment, which browsers send to nobody
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const LONGEST = 125; // seconds of history that are kept: a little more than the longest window
const SHORTEST = 10; // seconds that charts show at first; they grow with the history
const RATE_OVER = 0.25; // seconds that a throughput is averaged over
const GOODBYE = 5; // seconds for which a connection that has ended is still shown
const ABSENCE = 1.5; // seconds until one that is no more among the busiest disappears
const TEXT_EVERY = 200; // milliseconds between two changes of the numbers, so that they can be read
const CALM_EVERY = 1000; // milliseconds between two pictures where less motion is wanted

let colour = {};
let chosenSpan = 30; // seconds that the charts show, once there is so much history
let span = SHORTEST; // seconds that the charts show now
let now = 0; // the time of the samples at the right edge of the charts
let held = null; // while the picture is frozen, the samples that have come meanwhile
let absence = ABSENCE;
let latest = null; // the last sample
let fedAt = -Infinity; // when it came, on the page's own clock in milliseconds
let facts = {}; // what the server said of itself at the start
let drawing = false;
let textDue = 0;
let pictureDue = 0;
const plots = new Map(); // by the connection's id
const clients = new Map(); // of the demo, by name
const reasons = new Map(); // why connections were lost, by id
const whole = { t: [], memory: [], pending: [], out: [], pauses: [], lag: [] };
