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

# Who is stopped allocates nothing: what is found mapped the second time is all there is.
halt() {
    signal STOP '*-*' && signal STOP '*-*'
}

halt
# Postgres gets a chance to give its shared memory back; a kill would leave that to its next start, which never comes.
# Everything else goes at once: no Sentinel makes a master of a server that is about to end.
signal QUIT 'postgres-*'
signal CONT 'postgres-*'
signal KILL '[!p]*-*'
signal KILL 'pgbouncer-*'
round=0
while signal 0 'postgres-*' && [ $round -lt 20 ]; do
    sleep 0.05
    round=$((round + 1))
done
end_all() {
    # Not one by one: the first process of a container takes the others with it.
    halt
    tries=0
    while signal KILL '*-*' && [ $tries -lt 40 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
}

remove_all() { # tells whether nothing is left
    if [ -e "$root/keep-logs" ]; then
        rm -rf "$root"/*-[0-9]*/ "$root/authority"
    else
        rm -rf "$root"
    fi
    for left in "$root"/*-[0-9]*/ "$root"; do
        [ "$left" = "$root" ] && [ -e "$root/keep-logs" ] && continue
        [ -e "$left" ] && return 1
    done
    return 0
}

end_all
for file in "$root"/postgres-*/postmaster.pid; do
    [ -f "$file" ] || continue
    line=0
    while read -r key id; do
        line=$((line + 1))
        if [ $line -eq 7 ] && [ -n "$id" ]; then ipcrm -m "$id" 2>/dev/null; fi
    done <"$file"
done
# An engine that had its order already may start a container meanwhile, which then writes where we remove.
contained=$(ls "$root/passwd" 2>/dev/null)
homes=$(stat -c ' %d:%i ' "$root"/*-[0-9]*/ 2>/dev/null)
round=0
until remove_all || [ $round -ge 20 ]; do
    end_all
    round=$((round + 1))
done
# Or it has read its configuration just before. Its directory is gone and yet the one that it was: as long as somebody
# works there nobody else gets its number. Nobody waits for this.
late() {
    round=0
    while [ $round -lt 8 ]; do
        for process in /proc/[0-9]*; do
            case $(readlink "$process/cwd" 2>/dev/null) in
            *' (deleted)')
                case $homes in
                *" $(stat -L -c %d:%i "$process/cwd" 2>/dev/null) "*) kill -KILL "${process#/proc/}" 2>/dev/null ;;
                esac
                ;;
            esac
        done
        sleep 0.25
        round=$((round + 1))
    done
}
if [ -n "$contained" ]; then late & fi
