# What ./dev run records when it is given no command: a short session of real
# programs that work with files, a database, a repository and a socket.
set -e
git init -q repo
cd repo
git config user.email demo@example.org
git config user.name demo
echo hello > greeting
git add greeting
git commit -qm 'a greeting'
sqlite3 ../demo.db 'create table t(a); insert into t values (1),(2),(3);'
exec /usr/bin/python3 - <<'PY'
import os, socket, sqlite3, threading, time
os.environ["DEMO_STAGE"] = "begun"
db = sqlite3.connect("../demo.db")
log = open("demo.log", "w")
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
worker = threading.Thread(target=time.sleep, args=(0.3,))
worker.start()
time.sleep(0.1)
os.environ["DEMO_STAGE"] = "connected"
client = socket.create_connection(listener.getsockname())
peer, _ = listener.accept()
client.sendall(b"hello")
log.write(peer.recv(5).decode() + "\n")
worker.join()
os.environ["DEMO_STAGE"] = "done"
PY
