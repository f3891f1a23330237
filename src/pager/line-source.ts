/** The engine's answers, which a pager's loop looks for beside its descriptors. */
import type { Completion, LineClient } from '../engine/line-client.ts'
import type { PolledSource } from './loop.ts'

/** Answers that are taken in a turn: each may be told to many, who copy and send. */
const ANSWERS_A_TURN = 16

export class LineSource implements PolledSource {
  readonly #line: LineClient
  readonly #onAnswer: (answer: Completion) => void

  constructor(line: LineClient, onAnswer: (answer: Completion) => void) {
    this.#line = line
    this.#onAnswer = onAnswer
  }

  poll(): boolean {
    let answers = 0
    while (answers < ANSWERS_A_TURN) {
      const answer = this.#line.next()
      if (answer === undefined) break
      answers++
      this.#onAnswer(answer)
    }
    return answers > 0
  }

  sleep(): boolean {
    return this.#line.sleep()
  }

  wake(): void {
    this.#line.wake()
  }
}
