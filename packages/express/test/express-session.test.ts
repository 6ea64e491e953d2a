import { MemoryStore } from "express-session";
import { expressSessionSuite } from "./support/express-session-suite.js";
import { sealed } from "./support/sealed.js";

expressSessionSuite("its MemoryStore", () => new MemoryStore());
expressSessionSuite("sealed sessions", () => sealed().store);
