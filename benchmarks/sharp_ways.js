// sharp's ways to make the three classic sizes; see resizers.py and meter.py.
//
//     node sharp_ways.js WAY PHOTOGRAPHS RESULTS SECONDS

"use strict";
const fs = require("node:fs");
const path = require("node:path");
const sharp = require("sharp");

// One thread is cheapest per picture; nothing is looked up instead of made.
sharp.concurrency(1);
sharp.cache(false);

const JPEG = { quality: 70 }; // optimised and 4:2:0 by default

// A pipeline per size, each of which decodes at the scale it needs.
async function each(photograph) {
  const [small, middle, large] = [
    sharp(photograph).resize(50, 50, { fit: "cover" }),
    sharp(photograph).resize(300, 300, { fit: "inside" }),
    sharp(photograph).resize(600, 450, { fit: "inside" }),
  ];
  return {
    "50x50c": await small.jpeg(JPEG).toBuffer(),
    "300x300": await middle.jpeg(JPEG).toBuffer(),
    "600x450": await large.jpeg(JPEG).toBuffer(),
  };
}

// One decode to the largest size, the others from the pixels of the one before.
async function chained(photograph) {
  const raw = { resolveWithObject: true };
  const pixels = ({ data, info }) => sharp(data, { raw: info });
  const large = await sharp(photograph)
    .resize(600, 450, { fit: "inside" }).raw().toBuffer(raw);
  const middle = await pixels(large)
    .resize(300, 300, { fit: "inside" }).raw().toBuffer(raw);
  return {
    "600x450": await pixels(large).jpeg(JPEG).toBuffer(),
    "300x300": await pixels(middle).jpeg(JPEG).toBuffer(),
    "50x50c": await pixels(middle).resize(50, 50, { fit: "cover" }).jpeg(JPEG).toBuffer(),
  };
}

async function main(way, photographs, results, seconds) {
  const make = { "sharp-each": each, "sharp-chained": chained }[way];
  const names = fs.readdirSync(photographs).sort();
  const bodies = names.map((name) => fs.readFileSync(path.join(photographs, name)));
  for (const [index, name] of names.entries()) {
    for (const [size, made] of Object.entries(await make(bodies[index]))) {
      fs.writeFileSync(path.join(results, `${path.parse(name).name}@${size}`), made);
    }
  }
  let images = 0;
  const wall = performance.now();
  const cpu = process.cpuUsage();
  while (performance.now() - wall < seconds * 1000) {
    for (const body of bodies) await make(body);
    images += bodies.length;
  }
  const { user, system } = process.cpuUsage(cpu);
  console.log(JSON.stringify({
    images,
    cpu_seconds: (user + system) / 1e6,
    wall_seconds: (performance.now() - wall) / 1e3,
  }));
}

const [way, photographs, results, seconds] = process.argv.slice(2);
main(way, photographs, results, Number(seconds)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
