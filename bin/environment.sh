# Read by the programs beside it: makes <repository>/.venv on first use, and sees at a glance that it stands. For the
# tests it makes .venv-4 too, with the older transformers in it, and for the long ones an environment per framework.
#
# The glance starts no process, so that a later start costs nothing. Everything said here goes to stderr:
# stdout belongs to the program that is started. Plain bash 3.2, as macOS has it.

root=${BASH_SOURCE[0]%/*}
[[ $root == /* ]] || root=$PWD/$root
if [[ $root == */bin && ${root%/bin} -ef $root/.. ]]; then root=${root%/bin}; else root=$root/..; fi # bin may be a link
name_places() {
  local suffix=-${1#train-}
  [[ $1 != train && $1 != test ]] || suffix=''
  venv=$root/.venv$suffix
  pins=$root/constraints$suffix.txt
  notes=$venv/.guardian
  log=$venv.log
}
recipe=1 # count up when the steps below change what they install

say() { printf 'guardian: %s\n' "$*" >&2; }
die() { say "$@"; exit 3; }

# Usage: ensure_environment train|test|train-4|swift|swift3|llamafactory: afterwards it stands, and $venv is where.
ensure_environment() {
  name_places "$1"
  stands "$1" || build "$1" >&2 </dev/null
}

# The stamp is written last. It holds the place (scripts in .venv name it) and what the installation followed from.
stands() {
  local place='' have=''
  wanted "$1"
  [[ -x $venv/bin/python && -r $notes/$1.stamp ]] || return 1
  is_framework "$1" || [[ -x $venv/bin/guardian ]] || return 1
  { IFS= read -r place; IFS= read -r -d '' have; } <"$notes/$1.stamp" || :
  [[ $place -ef $root && $have == "$want" ]]
}

# A framework's environment holds nothing of ours: guardian is only ever beside a job.
is_framework() { [[ $1 == swift || $1 == swift3 || $1 == llamafactory ]]; }

wanted() {
  local project='' pinned=''
  is_framework "$1" || IFS= read -r -d '' project <"$root/pyproject.toml" || :
  IFS= read -r -d '' pinned <"$pins" || :
  want="recipe $recipe"$'\n'"${project%%$'\n[tool.pytest'*}"$'\n'"$pinned" # what follows configures checks only
}

build() {
  root=$(CDPATH='' cd -P -- "$root" && pwd -P) # scripts in .venv will name it
  name_places "$1"
  find_python
  trap 'stop INT 130' INT
  trap 'stop TERM 143' TERM
  trap 'stop HUP 129' HUP
  take_turn
  if ! stands "$1"; then # whoever had the turn before us may have done it
    : >"$log" || die "cannot write in $root"
    started=$SECONDS
    make_venv
    case $1 in
      test) stands train || install_train train; install_test ;;
      swift | swift3 | llamafactory) install_framework "$1" ;;
      *) install_train "$1" ;;
    esac
    tell "ready"
  fi
  exec 9>&-
  trap - INT TERM HUP
}

# torch has wheels for these versions; the one the user's PATH prefers comes first.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.10 python3.14; do
    # The real file, with its version in its name: if the system's Python moves on, our link to it dangles and we notice.
    python=$(command -v "$name" >/dev/null && "$name" -I -c '
import os, sys
if not (3, 10) <= sys.version_info < (3, 15): sys.exit(1)
import venv
print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))' 2>/dev/null) && return
  done
  die "no usable Python on PATH: install Python 3.10 to 3.14 with its venv module" \
    "(Debian, Ubuntu: apt install python3 python3-venv)"
}

# The lock sits on descriptor 9 and is inherited by the installer: it holds as long as one of us lives.
take_turn() {
  exec 9>>"$root/.venv.lock" || die "cannot write in $root"
  local lock='import fcntl, sys; fcntl.flock(9, fcntl.LOCK_EX | int(sys.argv[1]))'
  "$python" -I -c "$lock" 4 2>/dev/null && return # 4: LOCK_NB
  say "another start is making the environment; waiting for it"
  started=$SECONDS
  watch "waiting for the other start" "$python" -I -c "$lock" 0 || die "cannot lock $root/.venv.lock"
}

make_venv() {
  local place=''
  [[ -r $notes/place ]] && IFS= read -r place <"$notes/place"
  sweep
  if [[ ! -x $venv/bin/python || ( -n $place && ! $place -ef $root ) ]] || ! has_pip; then
    say "making $venv with $python (some minutes, this once)"
    if "$python" -I -c 'import ensurepip' 2>/dev/null; then
      stage "virtual environment" "$python" -I -m venv --clear "$venv"
    else
      make_venv_without_ensurepip
    fi
  fi
  mkdir -p "$notes" && printf '%s\n' "$root" >"$notes/place" || die "cannot write in $venv"
}

# Debian takes ensurepip out of python3 and puts it in python3-venv; a pip outside can fill in.
make_venv_without_ensurepip() {
  "$python" -I -m pip --version >/dev/null 2>&1 ||
    die "$python has neither ensurepip nor pip: apt install python3-venv (or your system's like of it)"
  stage "virtual environment without ensurepip" "$python" -I -m venv --clear --without-pip "$venv"
  stage "pip" in_clean_air "$python" -I -m pip --python "$venv/bin/python" install --disable-pip-version-check pip
}

# pip writes INSTALLER after a package's last file: without it, the package was cut off while being written,
# and pip would take it for installed. Names with ~ are what an uninstall cut off leaves.
sweep() {
  local part
  for part in "$venv"/lib/python*/site-packages/*.dist-info "$venv"/lib/python*/site-packages/~*; do
    [[ ! -e $part || ( $part == *.dist-info && -e $part/INSTALLER ) ]] || rm -rf "$part"
  done
}

has_pip() {
  local part
  for part in "$venv"/lib/python*/site-packages/pip-*.dist-info/INSTALLER; do
    [[ -e $part ]] && "$venv/bin/python" -I -c 'import pip' 2>/dev/null && return
  done
  return 1
}

install_train() {
  local begun=$started # with the venv itself
  [[ $1 == train ]] || share_torch
  install_torch
  stage "guardian and what its trainer needs" pip_install --no-build-isolation -e "$root[train-base]"
  [[ $1 != train ]] || install_deepspeed
  stamp "$1" "$begun"
}

install_torch() {
  local pin
  while IFS= read -r pin; do [[ $pin == torch==* ]] && break; done <"$pins"
  stage "$pin (the large one)" pip_install "$pin"
  stage "setuptools" pip_install setuptools wheel
}

# All that its constraints name. DeepSpeed comes last: it builds against the torch that is there.
install_framework() {
  local begun=$started line packages=() deepspeed=()
  share_torch
  install_torch
  while IFS= read -r line; do
    case $line in
      '' | '#'* | torch==* | setuptools==* | wheel==*) ;;
      deepspeed==*) deepspeed=("$line") ;;
      *) packages+=("$line") ;;
    esac
  done <"$pins"
  stage "${packages[0]} and what it needs" pip_install "${packages[@]}"
  [[ $1 != llamafactory ]] || stage "torchvision and torchaudio out again" without_vision_and_audio
  [[ -z ${deepspeed[*]-} ]] || stage "${deepspeed[0]}" pip_install --no-build-isolation "${deepspeed[@]}"
  stamp "$1" "$begun"
}

# They come built for another torch than the one that stands there, and do not load; transformers takes a torchvision
# that is there, and LLaMA-Factory imports torchaudio and asks for its version alone.
without_vision_and_audio() {
  local place
  "$venv/bin/python" -I -m pip uninstall --yes torchvision torchaudio || return
  for place in "$venv"/lib/python*/site-packages; do
    mkdir -p "$place/torchaudio" && printf '__version__ = "0"\n' >"$place/torchaudio/__init__.py" || return
  done
}

# Without build isolation it builds against the torch that is there; it has no wheel of its own.
install_deepspeed() {
  watch "deepspeed (optional)" pip_install --no-build-isolation -e "$root[train]" ||
    say "deepspeed did not install (see $log): everything but --deepspeed works;" \
      "to try again: rm '$notes/train.stamp'"
}

# Saves most of the time and of the disk; what cannot be linked is installed by the step after it.
share_torch() {
  watch "torch, as far as $root/.venv has it" "$venv/bin/python" -I "$root/bin/share_torch.py" "$root/.venv" "$venv" || :
}

install_test() {
  local begun=$SECONDS
  stage "test tools" pip_install --no-build-isolation -e "$root[dev]"
  stamp test "$begun"
}

# Also notes how long the first making took, for bin/test to tell: later ones find most of it there.
stamp() {
  local made_s=0
  if [[ ! -e $notes/$1.stamp ]]; then
    [[ ! -r $notes/seconds ]] || IFS= read -r made_s <"$notes/seconds"
    printf '%d\n' $((made_s + SECONDS - $2)) >"$notes/seconds"
  fi
  printf '%s\n%s' "$root" "$want" >"$notes/$1.new" && mv -f "$notes/$1.new" "$notes/$1.stamp"
}

pip_install() {
  in_clean_air "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input --progress-bar off \
    -c "$pins" "$@"
}

# Settings that would send the installation elsewhere, or shadow its modules, are not for us. exec: a signal to
# the background step must reach the installer itself.
in_clean_air() {
  exec env -u PYTHONPATH -u PYTHONHOME -u PIP_USER -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PIP_CONSTRAINT "$@"
}

stage() {
  watch "$@" && return
  local why
  why=$(grep -iE '(^| )error: |No space left' "$log" | grep -vE 'error: (metadata|subprocess)-' | tail -n 1)
  die "failed at: $1: ${why#"${why%%[! ]*}"} (whole log: $log); start again to go on from here"
}

tell() { printf 'guardian: %4d s  %s\n' $((SECONDS - started)) "$1" >&2; }

# Runs a step with its output in the log: a line when it starts and every 15 s. The step is a child in the
# background, so that a signal to us is heard at once.
watch() {
  local what=$1 next=$((SECONDS + 15)) status=0
  shift
  tell "$what"
  "$@" >>"$log" 2>&1 &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.3
    if ((SECONDS >= next)); then
      tell "$what: $(tail -n 1 "$log" 2>/dev/null | cut -c 1-90)"
      next=$((SECONDS + 15))
    fi
  done
  wait "$child" || status=$?
  child=
  return "$status"
}

stop() {
  [[ -z ${child:-} ]] || kill -TERM "$child" 2>/dev/null || :
  say "stopped by SIG$1 while installing; the next start goes on from here"
  exit "$2"
}
