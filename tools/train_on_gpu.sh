#!/bin/bash
# Trains on a GPU machine that has no network and limits the time of a command: pictures go there, and the run comes back, in
# small parts.
#
#   here    tools/train_on_gpu.sh pack PARTS MIB DATA FOLDER...  pictures of DATA/FOLDER to PARTS/pictures-NN.tar, each below MIB
#   there   tools/train_on_gpu.sh unpack DATA PART...            and back to DATA/FOLDER/...
#   there   tools/train_on_gpu.sh train DATA RUN TOTAL NOW [section.key=value...]
#               starts or resumes a run of TOTAL minutes, and ends this command, with a checkpoint, after NOW minutes
#   there   tools/train_on_gpu.sh home RUN OUT [FIRST]           model.safetensors and checkpoint.safetensors to OUT in pieces of 15 MiB,
#               at most four of them, from piece number FIRST (0)
#   here    tools/train_on_gpu.sh join RUN PIECE...              and back to RUN/model.safetensors and RUN/checkpoint.safetensors
#
# Crops come from DATA/train; a third from DATA/train-native and 6 % from DATA/train-screen, if those exist. Training is in
# bfloat16 and compiled, with crops of 256 and at the end 512; settings that are given replace these.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
command=${1:-}
[ $# -gt 0 ] && shift

case $command in
pack)
    parts=$(realpath -m "$1") limit=$(($2 * 1024 * 1024)) data=$3; shift 3
    mkdir -p "$parts"
    cd "$data"
    part=0 size=0
    while IFS=$'\t' read -r bytes file; do
        bytes=$((bytes + 2048)) # tar's header and padding
        if [ $((size + bytes + 20480)) -gt $limit ]; then part=$((part + 1)) size=0; fi
        size=$((size + bytes))
        printf '%s\0' "$file" >> "$parts/list-$(printf %02d $part)"
    done < <(find "$@" -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.webp' \) -printf '%s\t%p\n')
    for list in "$parts"/list-*; do
        tar --create --file "$parts/pictures-${list##*-}.tar" --null --files-from "$list"
        rm "$list"
    done
    ls -l "$parts"
    ;;
unpack)
    data=$1; shift
    mkdir -p "$data"
    for part; do tar --extract --file "$part" --directory "$data"; done
    find "$data" -type f | wc -l
    ;;
train)
    data=$1 run=$2 total=$3 now=$4; shift 4
    mix=()
    [ -d "$data/train-native" ] && mix+=("\"$data/train-native\" = 0.33")
    [ -d "$data/train-screen" ] && mix+=("\"$data/train-screen\" = 0.06")
    start=(base-gpu --run "$run" --init-from base)
    [ -f "$run/checkpoint.safetensors" ] && start=(--resume "$run")
    status=0
    PYTHONUNBUFFERED=1 timeout --signal TERM "${now}m" "$PYTHON" -m neurocodec train "${start[@]}" \
        data.folder="$data/train" "data.mix={ $(IFS=,; echo "${mix[*]}") }" data.final_crop=512 data.workers=14 \
        training.steps=100000000 training.minutes="$total" training.precision=bfloat16 training.compile=true \
        training.batch=48 training.checkpoint_every=1000 training.validate_actual=false "$@" || status=$?
    [ $status = 0 ] || [ $status = 124 ] # 124: NOW minutes have passed
    ;;
home)
    run=$1 out=$2 first=${3:-0}
    rm -rf "$run/pieces" && mkdir -p "$run/pieces" "$out"
    for file in model checkpoint; do
        [ ! -f "$run/$file.safetensors" ] || split --bytes 15M --numeric-suffixes "$run/$file.safetensors" "$run/pieces/$file."
    done
    ls "$run/pieces" | sort --reverse | tail --lines +$((first + 1)) | head --lines 4 |
        while IFS= read -r piece; do cp "$run/pieces/$piece" "$out"; done
    cp "$run/log.jsonl" "$out"
    echo "$(ls "$run/pieces" | wc -l) pieces; from $first: $(ls "$out")"
    ;;
join)
    run=$1; shift
    mkdir -p "$run"
    for file in model checkpoint; do
        for piece; do
            if [[ $piece == */$file.[0-9]* ]]; then printf '%s\t%s\n' "${piece##*.}" "$piece"; fi
        done | sort | cut --fields 2 > "$run/.pieces"
        [ ! -s "$run/.pieces" ] || xargs cat < "$run/.pieces" > "$run/$file.safetensors"
    done
    rm "$run/.pieces"
    ls -l "$run"
    ;;
*)
    sed -n '2,/^set/p' "$0" | grep '^#'
    exit 2
    ;;
esac
