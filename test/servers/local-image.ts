/**
 * A Docker image made of this machine's own redis-server and the libraries that it loads, for machines that cannot pull
 * one. It holds no shell and nothing else.
 */
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { dockerClient } from "./docker-client.js";

/** The name to give as SEALED_SESSION_TEST_REDIS_IMAGE. */
export const LOCAL_IMAGE = "sealed-session/redis:local";

/**
 * Builds {@link LOCAL_IMAGE} from `binary`, a redis-server or valkey-server, through the engine that testcontainers finds.
 *
 * @returns the files that went into the image.
 */
export async function buildLocalImage(binary: string): Promise<readonly string[]> {
  const libraries = await loadedLibraries(binary);
  const context = await mkdtemp(join(tmpdir(), "sealed-session-image-"));
  try {
    await copyInto(join(context, "root"), await realpath(binary), "/usr/bin/redis-server");
    for (const library of libraries) await copyInto(join(context, "root"), await realpath(library), library);
    await writeFile(join(context, "Dockerfile"), dockerfile(libraries));
    await buildImage(context);
  } finally {
    await rm(context, { recursive: true });
  }
  return [binary, ...libraries];
}

/** @returns the paths that ldd names, the loader's among them. */
async function loadedLibraries(binary: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)("ldd", [binary]);
  return [...stdout.matchAll(/(?:^\s*|=> )(\/\S+) \(0x/gm)].map(([, path = ""]) => path);
}

/** A library keeps the path under which the loader looks for it, also where that leads through symbolic links. */
async function copyInto(root: string, from: string, to: string): Promise<void> {
  const target = join(root, to);
  await mkdir(dirname(target), { recursive: true });
  await cp(from, target);
}

function dockerfile(libraries: readonly string[]): string {
  return [
    "FROM scratch",
    "COPY root/ /",
    "ENV PATH=/usr/bin",
    `ENV LD_LIBRARY_PATH=${[...new Set(libraries.map((library) => dirname(library)))].join(":")}`,
    "WORKDIR /data",
    `CMD ["redis-server"]`,
    "",
  ].join("\n");
}

async function buildImage(context: string): Promise<void> {
  const { dockerode } = (await dockerClient()).container;
  const progress = await dockerode.buildImage({ context, src: ["Dockerfile", "root"] }, { t: LOCAL_IMAGE });
  await new Promise<void>((resolve, reject) => {
    dockerode.modem.followProgress(progress, (error: Error | null) => (error ? reject(error) : resolve()));
  });
}
