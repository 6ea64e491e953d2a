/**
 * Keeps the sessions of express-session sealed.
 *
 * @packageDocumentation
 */
export { type Callback, ExpressStore, type ExpressStoreOptions, expressStore } from "./express-store.js";
