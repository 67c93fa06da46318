# Ends the servers of one stack and removes its directory, once nobody holds the other end of our standard input.
#
# $1: the stack's directory, which is made here. Each server works in a directory of its own right below it, and so do all its children;
# a process belongs to the stack if and only if that is its working directory. So nothing has to be registered, no
# number of a process is ever remembered, and a server that was just being spawned is found like any other (the
# spawning child holds the pipe until it has become the server). A shell that was left in there goes too.
root=$1
trap '' HUP INT QUIT TERM PIPE
cd / || exit 1
umask 077
# Nobody waits at the pipe of one that clears up after another.
if [ "$2" = guard ]; then
    mkdir "$root" || exit 1
    echo ready
fi
exec >/dev/null 2>&1
while read -r _; do :; done

signal() { # $1: signal; $2: glob of directories; tells whether any process was there
    any=1
    for process in /proc/[0-9]*; do
        for home in "$root"/$2; do
            [ "$process/cwd" -ef "$home" ] || continue
            forget_memory
            kill "-$1" "${process#/proc/}" 2>/dev/null && any=0
        done
    done
    return $any
}

forget_memory() { # of $process: shared memory with a name, which outlives a kill (our settings avoid it; initdb has it)
    while read -r _ _ _ _ _ file; do
        case $file in /dev/shm/PostgreSQL.*) rm -f "$file" ;; esac
    done <"$process/maps"
}

# Postgres gets a chance to give its shared memory back; a kill would leave that to its next start, which never comes.
signal QUIT 'postgres-*'
signal CONT 'postgres-*'
signal KILL 'redis-*'
round=0
while signal 0 'postgres-*' && [ $round -lt 20 ]; do
    sleep 0.05
    round=$((round + 1))
done
round=0
while signal KILL '*-*' && [ $round -lt 40 ]; do
    sleep 0.05
    round=$((round + 1))
done
for file in "$root"/postgres-*/postmaster.pid; do
    [ -f "$file" ] || continue
    line=0
    while read -r key id; do
        line=$((line + 1))
        if [ $line -eq 7 ] && [ -n "$id" ]; then ipcrm -m "$id" 2>/dev/null; fi
    done <"$file"
done
if [ -e "$root/keep-logs" ]; then
    rm -rf "$root"/*-[0-9]*/
else
    rm -rf "$root"
fi
