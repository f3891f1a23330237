/**
 * What runs inside the guest: an init in shell, a runtime in Python that answers lines on the console, and the functions it can load.
 *
 * The three snapshots are taken between them: after init said READY (os), after the runtime has imported its modules and said RUNTIME
 * (rt), and after a function has built its data and said LOADED (fn). Words in capitals begin lines of the guest alone; the console
 * echoes what is sent to it, so nothing sent contains one.
 *
 * The runtime is also the guest's agent: before each request it looks whether the generation of its machine is another, and renews its
 * random numbers if so (`docs/RESUME.md`). A kernel with a driver for vmgenid does the same when the notification arrives; Debian's
 * cloud kernel has none. It does not poll: what a guest does between two requests is not protected.
 */

/** A function the guest can load, and how `call ARGUMENT` is answered. */
const GUEST_FUNCTIONS = {
  /** 60,000 digests in a dictionary: many small objects; the answer can be checked without a guest. */
  table: `import hashlib
t = {str(i): hashlib.sha256(str(i).encode()).hexdigest() for i in range(60000)}
def handler(x): return t[str(int(x) % 60000)]
`,
  /** A database of 100,000 rows in memory: pages that a library written in C lays out. */
  sqlite: `import sqlite3
db = sqlite3.connect(':memory:')
db.execute('create table t(k integer primary key, v text)')
db.executemany('insert into t values(?,?)', ((i, 'row %d' % i * 4) for i in range(100000)))
db.commit()
def handler(x): return db.execute('select v from t where k=?', (int(x),)).fetchone()[0]
`,
} as const

export type GuestFunction = keyof typeof GUEST_FUNCTIONS

/** A request, which is a word and its argument on one line → the word that begins the line of its answer. */
export const ANSWER_WORDS = {
  /** A function's name: loads it. */
  load: 'LOADED',
  /** The function's argument: what the function returns. */
  call: 'RESULT',
  /** A number of bytes: as many from the guest's kernel (getrandom), in hex. */
  random: 'RANDOM',
  /** A number of bytes: as many from Python's own generator, which a kernel cannot renew, in hex. */
  pseudorandom: 'PSEUDORANDOM',
  /** Nothing: the machine's generation as a UUID, or `none` where it has no vmgenid. */
  generation: 'GENERATION',
  /** Bytes in hex, as `--on-resume` gets them: mixed into the guest's random numbers. */
  renew: 'RENEWED',
  /** A word: kept in memory; answered by how many there are. */
  remember: 'REMEMBERED',
  /** Nothing: the words kept, in order, with spaces between. */
  recall: 'RECALLED',
  /** A number of MiB: as much memory written, a byte of every page, and held until the next `touch`. */
  touch: 'TOUCHED',
  /** `read OFFSET LENGTH` or `write OFFSET HEX`, at most 1024 bytes: the disk's bytes as they are afterwards, in hex. */
  disk: 'DISK',
} as const

export type GuestRequest = keyof typeof ANSWER_WORDS

/** Modules lie in the order in which they must be loaded. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
export PATH=/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
echo READY > /dev/ttyS0
read line < /dev/ttyS0
exec python3 /runtime.py < /dev/ttyS0 > /dev/ttyS0 2>&1
`

/**
 * Where the generation lies: QEMU's table of ACPI names its page VGIA, a 32-bit address that the firmware put in, and the 16 bytes begin
 * at 40 (QEMU, docs/specs/vmgenid; hw/acpi/vmgenid.c). The page is no RAM of the kernel's, so /dev/mem may map it.
 */
const GENERATION = `import fcntl, glob, mmap, random, uuid
RNDRESEEDCRNG = 0x5207
def page_of_generation():
    for path in glob.glob('/sys/firmware/acpi/tables/SSDT*'):
        with open(path, 'rb') as file: table = file.read()
        at = table.find(b'VGIA\\x0c')
        if at < 0: continue
        address = int.from_bytes(table[at + 5:at + 9], 'little')
        with open('/dev/mem', 'rb') as memory:
            return mmap.mmap(memory.fileno(), 4096, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=address)
page = page_of_generation()
def generation(): return page[40:56] if page else None
seen = generation()
def renew(secret):
    with open('/dev/urandom', 'wb', buffering=0) as pool:
        pool.write(secret)
        fcntl.ioctl(pool, RNDRESEEDCRNG)
    random.seed()
def renew_if_resumed():
    global seen
    if generation() == seen: return
    seen = generation()
    renew(seen)
`

/** Directly, not through the page cache: that is part of the snapshot, and would show the disk of the guest that was captured. */
const DISK = `def disk(line):
    what, offset, rest = line.split()
    offset = int(offset); start = offset % 4096
    block = mmap.mmap(-1, 8192)
    file = os.open('/dev/vda', os.O_RDWR | os.O_DIRECT)
    os.preadv(file, [block], offset - start)
    length = int(rest) if what == 'read' else len(rest) // 2
    if what == 'write':
        block[start:start + length] = bytes.fromhex(rest)
        os.pwrite(file, block, offset - start)
        os.fsync(file)
    os.close(file)
    return block[start:start + length].hex()
`

const RUNTIME = `import json, re, hashlib, datetime, urllib.request, http.client, logging, collections, decimal, asyncio, email
import xml.dom.minidom, sqlite3, ctypes, zipfile, ssl, sys, os
${GENERATION}${DISK}print('RUNTIME')
names = {}
words = []
touched = b''
def load(name): exec(open('/functions/' + name + '.py').read(), names)
def touch(mib):
    global touched
    touched = b''
    touched = bytearray(int(mib) << 20)
    for at in range(0, len(touched), 4096): touched[at] = 1
handlers = {
    'load': load,
    'call': lambda argument: names['handler'](argument),
    'random': lambda count: os.urandom(int(count)).hex(),
    'pseudorandom': lambda count: random.randbytes(int(count)).hex(),
    'generation': lambda _: uuid.UUID(bytes_le=seen) if seen else 'none',
    'renew': lambda secret: renew(bytes.fromhex(secret)),
    'remember': lambda word: words.append(word) or len(words),
    'recall': lambda _: ' '.join(words),
    'touch': touch,
    'disk': disk,
}
answers = ${JSON.stringify(ANSWER_WORDS)}
for line in sys.stdin:
    request, _, argument = line.strip().partition(' ')
    if request not in handlers: continue
    renew_if_resumed()
    answer = handlers[request](argument)
    print(answers[request], '' if answer is None else answer)
`

/** Path in the guest → text of the file. */
export const GUEST_FILES: Readonly<Record<string, string>> = {
  init: INIT,
  'runtime.py': RUNTIME,
  ...Object.fromEntries(Object.entries(GUEST_FUNCTIONS).map(([name, text]) => [`functions/${name}.py`, text])),
}
