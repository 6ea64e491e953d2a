/**
 * `tsx test/servers/build-local-image.ts`: builds the image of local-image.ts with the redis-server or valkey-server on
 * the PATH.
 */
import { buildLocalImage, LOCAL_IMAGE } from "./local-image.js";
import { findRedisBinary } from "./redis-process.js";

const binary = await findRedisBinary();
if (binary === undefined) throw new Error("neither redis-server nor valkey-server is on the PATH");
const files = await buildLocalImage(binary);
console.log(`${LOCAL_IMAGE} holds\n  ${files.join("\n  ")}`);
