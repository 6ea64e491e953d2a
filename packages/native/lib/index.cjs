/**
 * Finds the addon: one that was built here from source, else the prebuilt one of this platform. Throws where none loads; core then works on
 * `node:crypto`. Nothing is compiled or downloaded, now or at installation.
 */
"use strict";
const { join } = require("node:path");

/** The addon is built against this major version of OpenSSL, and takes the one that the node binary brings. */
const OPENSSL_MAJOR = "3";

const folder = join(__dirname, "..");
const platform = `${process.platform}-${process.arch}`;
// The musl binary stands second: the glibc one does not load there.
const candidates = [
  join(folder, "addon", "build", "Release", "sealed_session.node"),
  join(folder, "prebuilds", platform, "sealed_session.node"),
  ...(process.platform === "linux" ? [join(folder, "prebuilds", `${platform}-musl`, "sealed_session.node")] : []),
];

module.exports = load();

function load() {
  const openssl = process.versions.openssl;
  if (openssl?.split(".")[0] !== OPENSSL_MAJOR) throw failure(`this Node has ${openssl ?? "no"} OpenSSL`);
  let reason = `there is no binary for ${platform}`;
  for (const path of candidates) {
    try {
      return require(path);
    } catch (error) {
      // What is there and does not load says more than what is not there.
      if (error.code !== "MODULE_NOT_FOUND") reason = error.message;
    }
  }
  throw failure(reason);
}

function failure(reason) {
  return Object.assign(new Error(`the native addon does not load: ${reason}`), { code: "ERR_NATIVE_ADDON" });
}
