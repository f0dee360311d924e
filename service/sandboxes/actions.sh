#!/bin/sh
# Runs one action exactly once on any machine with a POSIX shell, setsid and /proc. Knows nothing of
# what the action is. Whoever makes the action's folder runs it; all others, and all later ones,
# read what it left there:
#
#   supervisor  pid of who runs it; where that one is gone without a word, somebody killed it
#   pid      of the command, which leads a session of its own
#   stopped  why it was stopped before its end (timeout, cancelled), if it was
#   head, tail, total    the two ends of its output, and how many bytes there were
#   done     exit code; there when all of the above is whole
#   asked    a digest of what was asked; who asks for something else under its id is told so
#
#   actions.sh run  FOLDER MARK WAIT TIMEOUT LIMIT ASKED CWD COMMAND
#   actions.sh stop FOLDER MARK
#   actions.sh sweep MARK
#
# The command runs beside the caller, never under it: a server that handles one request at a time
# stays free, and a caller that goes away takes nothing with it.
#
# In a container that is ours alone, its environment says so by two variables, which no command sees:
# PILOTFISH_HELPER marks all that is not a command's, and of PILOTFISH_PROCESSES a command may have so
# many, fewer than the container, so that there is room for who stops it.
set -u

# Processes whose environment has ($1 is l) or has not (L) a text in it. Busybox' grep does not look
# beyond the first of the variables.
carrying() {
    if printf 'a\0b' | grep -qF b; then
        grep "-${1}sF" "$2" /proc/[0-9]*/environ | tr -dc '0-9\n'
        return
    fi
    for file in /proc/[0-9]*/environ; do
        [ -r "$file" ] || continue
        has=L
        if tr '\0' '\n' 2>/dev/null <"$file" | grep -qF "$2"; then has=l; fi
        [ "$has" != "$1" ] || echo "$file" | tr -dc '0-9\n'
    done
}

# Kill all whose environment carries the mark, wherever they went, to the last one: of a bomb, any
# will do to begin again. They are stopped until no more come, and only then killed: as long as the
# stopped ones are there, the others find no room to fork in.
sweep() {
    rounds=0 before=
    while [ "$rounds" -lt 60 ]; do
        found=$(carrying l "$1" | grep -vx "$$")
        [ -n "$found" ] || return 0
        kill -STOP $found 2>/dev/null
        if [ "$found" = "$before" ] || [ $((rounds % 20)) = 19 ]; then
            kill -KILL $found 2>/dev/null
        fi
        before=$found
        sleep 0.02
        rounds=$((rounds + 1))
    done
}

# Where ended commands left more than an eighth of the processes that commands may have: kill what they
# left, and what threw its environment away and with it the mark. A few services may stay; a crowd is a
# fork bomb's, and no other command can start a process beside it.
relieve() {
    actions=$1 ended=${2:-} tries=0 before= few=$((PILOTFISH_PROCESSES / 8))
    while [ "$tries" -lt 30 ]; do
        found=$(carrying L PILOTFISH_HELPER)
        [ "$tries" -gt 0 ] || [ "$(echo "$found" | wc -l)" -gt "$few" ] || return 0
        left=
        for pid in $found; do
            name=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" |
                sed -n 's/^PILOTFISH_ACTION=[^:]*://p')
            if [ -z "$name" ] || [ "$name" = "$ended" ] || [ -e "$actions/$name/done" ]; then left="$left $pid"; fi
        done
        [ -n "$left" ] || return 0
        [ "$tries" -gt 0 ] || [ "$(echo $left | wc -w)" -gt "$few" ] || return 0
        kill -STOP $left 2>/dev/null
        if [ "$left" = "$before" ] || [ $((tries % 10)) = 9 ]; then  # as in sweep
            kill -KILL $left 2>/dev/null
        fi
        before=$left
        sleep 0.05
        tries=$((tries + 1))
    done
}

stop() {
    folder=$1 mark=$2 reason=$3
    [ -e "$folder/done" ] && return
    mkdir "$folder/stopping" 2>/dev/null && echo "$reason" >"$folder/stopped"
    pid=$(cat "$folder/pid" 2>/dev/null) && kill -KILL "-$pid" 2>/dev/null
    sweep "PILOTFISH_ACTION=$mark"
    [ -z "${PILOTFISH_HELPER:-}" ] || relieve "${folder%/*}" "${folder##*/}"
    : >"$folder/swept"
}

supervise() {
    folder=$1 mark=$2 timeout=$3 half=$4 cwd=$5 command=$6
    cd "$folder" || exit 1
    # command > raw > relay > cut > head and tail
    #                      > count > total
    [ -z "${PILOTFISH_HELPER:-}" ] || relieve "${folder%/*}"
    mkfifo raw cut count
    wc -c <count >total &
    { head -c "$half" >head; tail -c "$half" >tail; : >kept; } <cut &
    tee count <raw >cut &
    relay=$!
    (
        cd "$cwd" || exit 126
        export PILOTFISH_ACTION="$mark" PILOTFISH_SANDBOX="${mark%%:*}"
        if [ -n "${PILOTFISH_PROCESSES:-}" ]; then
            # The one or the other, as the shell has it. Nicer than who must be able to stop it.
            ulimit -u "$PILOTFISH_PROCESSES" 2>/dev/null || ulimit -p "$PILOTFISH_PROCESSES"
            unset PILOTFISH_PROCESSES PILOTFISH_HELPER
            command -v nice >/dev/null && exec nice -n 19 setsid sh -c "$command"
        fi
        exec setsid sh -c "$command"
    ) >raw 2>&1 </dev/null &
    child=$!
    echo "$child" >pid.new && mv pid.new pid
    setsid sh "$script" expire "$folder" "$mark" "$timeout" </dev/null >/dev/null 2>&1 &
    timer=$!
    wait "$child"
    code=$?
    [ -z "${PILOTFISH_HELPER:-}" ] || relieve "${folder%/*}" "${folder##*/}"
    # What it left in the background may hold the output open. That is no reason to wait, nor to
    # let the background block or die: from here on its output is read and dropped.
    tries=0
    while [ ! -e kept ] && [ "$tries" -lt 20 ]; do
        sleep 0.01
        tries=$((tries + 1))
    done
    if [ ! -e kept ]; then
        cat <raw >/dev/null 2>&1 &
        sleep 0.02
        kill "$relay"
        while [ ! -e kept ]; do sleep 0.01; done
    fi
    while [ ! -s total ]; do sleep 0.01; done
    # Who stops it is not done with those that left its session: nobody is told of an end, and the
    # timer is not killed, before that.
    tries=0
    while [ -e stopping ] && [ ! -e swept ] && [ "$tries" -lt 500 ]; do
        sleep 0.01
        tries=$((tries + 1))
    done
    kill -KILL "-$timer" 2>/dev/null
    echo "$code" >done.new && mv done.new done
}

# Whether whoever runs it has ended without having said so: the command killed it, most likely.
orphaned() {
    read -r pid 2>/dev/null <"$1/supervisor" || return 1
    [ ! -d "/proc/$pid" ] && [ ! -e "$1/done" ]
}

# Say in its place what there is to say, as of a command that was killed.
conclude() {
    folder=$1 mark=$2
    mkdir "$folder/concluding" 2>/dev/null || return
    pid=$(cat "$folder/pid" 2>/dev/null) && kill -KILL "-$pid" 2>/dev/null
    sweep "PILOTFISH_ACTION=$mark"
    : >>"$folder/head" && : >>"$folder/tail"
    cat "$folder/head" "$folder/tail" | wc -c >"$folder/total"
    echo 137 >"$folder/done.new" && mv "$folder/done.new" "$folder/done"
}

# Wait so many hundredths of a second for its end, looking ever more seldom.
await() {
    folder=$1 mark=$2 left=$3 pause=1 looks=0
    while [ ! -e "$folder/done" ]; do
        if orphaned "$folder"; then
            conclude "$folder" "$mark"
        fi
        [ "$left" -gt 0 ] || return
        if [ "$pause" -lt 10 ]; then sleep "0.0$pause"; else sleep "0.$pause"; fi
        left=$((left - pause)) looks=$((looks + 1))
        [ "$looks" -lt 15 ] || [ "$pause" -ge 25 ] || pause=$((pause + 1))
    done
}

show() {
    folder=$1
    if [ ! -e "$folder/done" ]; then
        echo "running"
        return
    fi
    reason=$(cat "$folder/stopped" 2>/dev/null)
    sizes=$(wc -c <"$folder/head")
    sizes="$sizes $(wc -c <"$folder/tail")"
    # Made now that the command has ended: it cannot have printed it, whatever it looked at.
    boundary=$(od -An -N 16 -tx1 /dev/urandom | tr -d ' \n')
    echo "done $(cat "$folder/done") ${reason:-ended} $(cat "$folder/total") $sizes $boundary"
    cat "$folder/head"
    printf %s "$boundary"
    cat "$folder/tail"
}

script=$0 verb=$1
shift
case $verb in
run)
    folder=$1 mark=$2 wait=$3 timeout=$4 limit=$5 asked=$6 cwd=$7 command=$8
    if mkdir "$folder" 2>/dev/null; then
        echo "$asked" >"$folder/asked.new" && mv "$folder/asked.new" "$folder/asked"
        setsid sh "$script" supervise "$folder" "$mark" "$timeout" "$((limit / 2))" "$cwd" "$command" \
            </dev/null >/dev/null 2>&1 &
        echo "$!" >"$folder/supervisor.new" && mv "$folder/supervisor.new" "$folder/supervisor"
    fi
    await "$folder" "$mark" "$wait"
    before=$(cat "$folder/asked" 2>/dev/null)
    if [ "${before:-$asked}" != "$asked" ]; then
        echo "other"
    else
        show "$folder"
    fi
    ;;
supervise) supervise "$@" ;;
expire)
    sleep "$3"
    stop "$1" "$2" timeout
    ;;
stop)
    # One that never came must not run when it comes late.
    if mkdir "$1" 2>/dev/null; then
        cd "$1" && : >head && : >tail && echo 0 >total && echo cancelled >stopped && echo 137 >done
    else
        stop "$1" "$2" cancelled
    fi
    ;;
sweep) sweep "PILOTFISH_SANDBOX=$1" ;;
esac
