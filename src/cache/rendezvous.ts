/**
 * Rendezvous hashing (highest random weight; Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998): every client
 * that knows the same node names finds the same order of nodes for an id, without a table that anybody keeps. A node that is added or taken away moves only
 * the ids of which it is, or was, among the first: one in n + 1.
 *
 * The weight of a node for an id is xxHash64 of both. Not a secret and not collision-proof, which it need not be: whoever may choose ids can at worst unbalance
 * a cache.
 */
import type { IHasher } from 'hash-wasm'

export interface Rendezvous<Node> {
  /** The `count` nodes that an id belongs to, the best first; fewer if there are fewer. */
  nodesOf(id: string, count: number): Node[]
}

interface Weighed<Node> {
  readonly node: Node
  /** 16 hex digits: as text in the order of the numbers. */
  readonly weight: string
}

/** Names have to differ; their order does not matter. */
export async function rendezvous<Node extends { readonly name: string }>(nodes: readonly Node[]): Promise<Rendezvous<Node>> {
  const { createXXHash64 } = await import('hash-wasm')
  const hasher = await createXXHash64()
  return {
    nodesOf(id, count) {
      const weighed = nodes.map((node): Weighed<Node> => ({ node, weight: weightOf(hasher, node.name, id) }))
      return weighed
        .sort(byWeight)
        .slice(0, count)
        .map(({ node }) => node)
    },
  }
}

/** No node name has a NUL, so no two pairs of name and id make one text. */
function weightOf(hasher: IHasher, name: string, id: string): string {
  return hasher.init().update(`${name}\0${id}`).digest()
}

function byWeight(a: Weighed<{ readonly name: string }>, b: Weighed<{ readonly name: string }>): number {
  if (a.weight !== b.weight) return a.weight > b.weight ? -1 : 1
  return a.node.name < b.node.name ? -1 : 1
}
