/**
 * What runs inside the guest: an init in shell, a runtime in Python that answers lines on the console, and the functions it can load.
 *
 * The three snapshots are taken between them: after init said READY (os), after the runtime has imported its modules and said RUNTIME
 * (rt), and after a function has built its data and said LOADED (fn). Words in capitals begin lines of the guest alone; the console
 * echoes what is sent to it, so nothing sent contains one.
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

const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
export PATH=/bin:/usr/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
echo READY > /dev/ttyS0
read line < /dev/ttyS0
exec python3 /runtime.py < /dev/ttyS0 > /dev/ttyS0 2>&1
`

const RUNTIME = `import json, re, hashlib, datetime, urllib.request, http.client, logging, collections, decimal, asyncio, email
import xml.dom.minidom, sqlite3, ctypes, zipfile, ssl, sys
print('RUNTIME')
names = {}
for line in sys.stdin:
    line = line.strip()
    if line.startswith('load '):
        exec(open('/functions/' + line[5:] + '.py').read(), names)
        print('LOADED')
    elif line.startswith('call '): print('RESULT', names['handler'](line[5:]))
`

/** Path in the guest → text of the file. */
export const GUEST_FILES: Readonly<Record<string, string>> = {
  init: INIT,
  'runtime.py': RUNTIME,
  ...Object.fromEntries(Object.entries(GUEST_FUNCTIONS).map(([name, text]) => [`functions/${name}.py`, text])),
}
