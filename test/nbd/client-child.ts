/**
 * Clients in a process of their own, whose ends of the sockets take no numbers of ours: so many connect at the first line that comes, each reads the first page at every line, and
 * what they read is said in one.
 */
import { createInterface } from 'node:readline'
import { NbdClient } from './socket-client.ts'

const [path, count] = process.argv.slice(2)
const clients: NbdClient[] = []
for await (const _ of createInterface({ input: process.stdin })) {
  while (clients.length < Number(count)) clients.push(await NbdClient.connect(path!))
  console.log((await Promise.all(clients.map(client => client.read(0, 4096)))).join(''))
}
process.exit()
