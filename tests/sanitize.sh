#!/usr/bin/env bash
# Builds our own objects with a sanitizer and runs the C++ tests and a subset of the Python tests on them.
#   tests/sanitize.sh address|undefined|thread [BUILD_FOLDER]
# Run it in the environment of the README's test command (pip install '.[test]'). LiteRT and Python are not instrumented:
# what happens inside them goes unseen, and ThreadSanitizer is told to leave LiteRT's own threads out.
set -euo pipefail
kind=${1:-}
case "$kind" in address | undefined | thread) ;; *) sed -n 2,5p "$0" >&2; exit 2 ;; esac
root=$(cd "$(dirname "$0")/.." && pwd)
build=${2:-$root/build/sanitize-$kind}

echo "== build ($build)"
cmake -S "$root" -B "$build" -G Ninja -DTANDEM_SANITIZE="$kind" -DTANDEM_PYTHON=ON -DTANDEM_TESTS=ON \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >/dev/null
cmake --build "$build"

# The package from the source tree, with the module that was just built.
package=$(mktemp -d)
trap 'rm -rf "$package"' EXIT
mkdir "$package/tandem_lm"
ln -s "$root"/python/tandem_lm/* "$package/tandem_lm/"
rm -f "$package"/tandem_lm/_native*.so
ln -s "$build"/_native*.so "$package/tandem_lm/"
ln -s "$root/converter" "$package/tandem_converter"

export TANDEM_TEST_DATA="$root/tests/data" TANDEM_TEST_BUILD="$build" PYTHONPATH="$package"
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="suppressions=$root/tests/tsan.txt ignore_noninstrumented_modules=1 second_deadlock_stack=1"
# ThreadSanitizer wants its addresses where a kernel with much randomisation does not leave them free.
launch=()
[ "$kind" = thread ] && launch=(setarch "$(uname -m)" --addr-no-randomize)

echo "== C++ tests"
for program in "$build"/*_test; do
  printf '%s ' "$(basename "$program")"
  "${launch[@]}" "$program"
  echo ok
done

echo "== Python tests"
# The interpreter is not instrumented, so the runtime must be there before it. Python itself leaves memory behind.
runtime=$("${CXX:-g++}" -print-file-name="lib$(case $kind in address) echo asan ;; thread) echo tsan ;; *) echo ubsan ;; esac).so")
export ASAN_OPTIONS=detect_leaks=0
tests=(api async capi capi_sessions kv_dtype scheduler speculation conversation memory sessions prefix_cache weight_cache)
# The C++ runtime is preloaded too, where the sanitizer finds the exceptions of libraries that are loaded later.
# (Not before the launcher, whose own addresses are still random.)
files=()
for name in "${tests[@]}"; do files+=("$root/tests/python/test_$name.py"); done
"${launch[@]}" env PYTHONMALLOC=malloc \
  LD_PRELOAD="$runtime $("${CXX:-g++}" -print-file-name=libstdc++.so.6)" \
  python -m pytest -p no:cacheprovider -q --timeout 1800 "${files[@]}"
