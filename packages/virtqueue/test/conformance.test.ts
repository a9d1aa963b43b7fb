import { ringConformance } from "@virtkit/testkit"
import { createQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { wrongStates } from "./wrong-states.js"

ringConformance({ describe, it, expect }, { setup: createQueue, wrongStates })
