// A foreign LwM2M 1.0 client, coap-node, with a water meter in it. Each line of stdin is an order; a line of JSON answers.
// It asks the machine for its network unless it thinks that npm tests it.
process.env.npm_lifecycle_event = "test";
const readline = require("readline");
const CoapNode = require("coap-node");
const lwm2mId = require("lwm2m-id");
const SmartObject = require("smartobject");

const [serial, port] = process.argv.slice(2);
const resource = { access: "R", multi: false, mand: true, type: "float", range: null, init: 0 };
lwm2mId.addOid({ waterMeter: 3424 });
lwm2mId.addSpecificRid(3424, { cumulatedVolume: 1 });
lwm2mId.addSpecificResrcChar(3424, { cumulatedVolume: resource });

const objects = new SmartObject();
objects.init("waterMeter", 0, { cumulatedVolume: 3.5 });
const meter = new CoapNode(serial, objects, { lifetime: 300 });
const say = (words) => process.stdout.write(JSON.stringify(words) + "\n");
const answer = (error, reply) => say(error ? String(error) : (reply && reply.status) || "done");
meter.on("error", (error) => process.stderr.write(String(error) + "\n"));

const orders = {
  register: () => meter.register("127.0.0.1", Number(port), answer),
  update: (lifetime) => meter.update({ lifetime: Number(lifetime) }, answer),
  deregister: () => meter.deregister(answer),
  volume: (m3) => objects.write("waterMeter", 0, "cumulatedVolume", Number(m3), { force: true }, answer),
  // What is observed, and at which of its ports: it has another after each update.
  observed: () => say(Object.entries(meter._reporters).map(([path, reporter]) => [path, reporter.port === meter.port])),
};
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [name, ...rest] = line.split(" ");
    orders[name](...rest);
  })
  .on("close", () => process.exit(0));
