/**
 * The Docker engine that testcontainers finds.
 */
import { type ContainerRuntimeClient, getContainerRuntimeClient } from "testcontainers";

/** @throws Error if no engine answers. */
export async function dockerClient(): Promise<ContainerRuntimeClient> {
  // Our containers use the network of the host. Inside a container testcontainers would look for the gateway of a bridge
  // instead, which the engine need not have.
  process.env["TESTCONTAINERS_HOST_OVERRIDE"] ??= "127.0.0.1";
  return await getContainerRuntimeClient().catch((cause: unknown) => {
    throw new Error("no Docker engine answers", { cause });
  });
}
