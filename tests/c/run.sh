#!/usr/bin/env bash
# Everything that is promised of the C ABI, held against the artifact: tests/c/run.sh
#
# Needs a C and a C++ compiler, nm, readelf and Python; uses Valgrind, CMake and pkg-config where they
# are, and says what it left out. DEEPSEEK_C_SOAK: rounds of the leak test (default 1000).
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR=$target
CC=${CC:-cc} CXX=${CXX:-c++}
work=$(mktemp -d "${TMPDIR:-/tmp}/deepseek-c.XXXXXX")
trap 'rm -rf "$work"' EXIT
encoders=$PWD/tests/golden/hf
skipped=()

step() { printf '== %s\n' "$*"; }
fail() { echo "tests/c/run.sh: $1" >&2; exit 1; }

step "source: header fresh, exports guarded, layouts agree"
cargo test --release --quiet --workspace --test header --test abi --test sweep >"$work/cargo.log" 2>&1 ||
    { cat "$work/cargo.log" >&2; fail "the tests of deepseek-ffi failed"; }
[ -z "$(git status --porcelain include 2>/dev/null)" ] || skipped+=("include/ is not committed")

step "artifact: library, and one with test hooks"
tools/build.sh --features deepseek-cdylib/test-hooks
mkdir "$work/hooks" && cp "$target/release/libdeepseek.so" "$work/hooks/libdeepseek.so.0"
ln -s libdeepseek.so.0 "$work/hooks/libdeepseek.so"
prefix=$work/prefix
tools/install.sh "$prefix" >/dev/null
library=$prefix/lib/libdeepseek.so

step "exports and soname"
nm -gD --defined-only "$library" | awk '{print $NF}' | sort >"$work/exports.txt"
LC_ALL=C sort ffi/abi/exports.txt | diff -u - <(LC_ALL=C sort "$work/exports.txt") ||
    fail "the library exports something else than ffi/abi/exports.txt says"
version=$(sed -n 's/^#define DEEPSEEK_VERSION "\(.*\)"/\1/p' include/deepseek/deepseek.h)
readelf -d "$library" | grep "soname: \[libdeepseek.so.${version%%.*}\]" >/dev/null || fail "wrong soname"

step "languages"
warnings=(-pedantic-errors -Wall -Wextra -Werror)
flags=("${warnings[@]}" -I "$prefix/include" -I tests/c)
programs=(tensor model session background surface ragged embedder soak)
sources=(tests/c/{tensor,model,session,background,surface,ragged,embedder,soak,panic,two_units}.c examples/c/{run,search}.c)
for standard in c99 c11 c17 c2x; do
    printf '#include <deepseek/deepseek.h>\n' |
        "$CC" "-std=$standard" "${flags[@]}" -fsyntax-only -x c -
    for source in "${sources[@]}"; do
        "$CC" "-std=$standard" "${flags[@]}" -fsyntax-only "$source"
    done
done
# The examples are C; the tests and the header are C++ as well.
for source in "${sources[@]}" tests/c/consumer/main.c; do
    [[ $source == examples/* ]] ||
        "$CXX" -std=c++17 "${flags[@]}" -fsyntax-only -x c++ "$source"
done

compile() { # OUT LIBRARY_DIR SOURCES AND FLAGS...
    local out=$1 libraries=$2
    shift 2
    "$@" "${flags[@]}" -o "$out" -L "$libraries" -ldeepseek -lpthread -lm "-Wl,-rpath,$libraries"
}

run() { # PROGRAM [WRAPPER...]
    local program=$1 arguments=()
    shift
    case $program in
        *embedder* | *ragged* | *sweep*) arguments=("$encoders") ;;
        *surface*) arguments=("$work/cases.txt") ;;
        *soak*) arguments=("$encoders/bert-mean" "$rounds") ;;
    esac
    timeout 1800 "$@" "$program" "${arguments[@]}" || fail "$program failed"
}

step "tests, as C99 and as C++17"
python3 tests/surface/flatten.py tests/surface/cases.json >"$work/cases.txt"
for program in "${programs[@]}"; do
    compile "$work/$program" "$prefix/lib" "$CC" -std=c99 -O1 -g "tests/c/$program.c" tests/c/two_units.c
    compile "$work/$program-cpp" "$prefix/lib" "$CXX" -std=c++17 -O1 -x c++ "tests/c/$program.c"
done
compile "$work/panic" "$work/hooks" "$CC" -std=c99 -g tests/c/panic.c
compile "$work/sweep" "$prefix/lib" "$CC" -std=c11 -g "$target/tmp/sweep.c"
rounds=10
for program in "${programs[@]}"; do
    run "$work/$program"
    run "$work/$program-cpp"
done
run "$work/sweep"
run "$work/panic" 2>/dev/null

step "address and undefined-behaviour sanitizers"
sanitize=(-fsanitize=address,undefined -fno-sanitize-recover=all)
for program in tensor model session background surface ragged embedder; do
    compile "$work/$program-asan" "$prefix/lib" "$CC" -std=c99 -O1 -g "${sanitize[@]}" "tests/c/$program.c"
done
compile "$work/sweep-asan" "$prefix/lib" "$CC" -std=c11 -O1 -g "${sanitize[@]}" "$target/tmp/sweep.c"
nm "$work/sweep-asan" | grep __asan_init >/dev/null || fail "the sanitizer is not in the program"
for program in tensor model session background surface ragged embedder sweep; do
    run "$work/$program-asan"
done

if command -v valgrind >/dev/null; then
    step "valgrind"
    # A fair scheduler: threads run one at a time here, and one that computes would keep others,
    # among them the one that is to cancel it, from ever running.
    for program in tensor model session background surface ragged embedder sweep; do
        DEEPSEEK_TEST_SCALAR=1 run "$work/$program" valgrind --quiet --fair-sched=yes \
            --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
    done
else
    skipped+=("valgrind is not installed")
fi

rounds=${DEEPSEEK_C_SOAK:-1000}
step "leaks: $rounds rounds of load, run, unload"
run "$work/soak"

step "installed prefix, moved"
mv "$prefix" "$work/moved"
prefix=$work/moved
if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
    read -ra consumer <<<"$(pkg-config --cflags --libs 'deepseek >= 0.1')"
    "$CC" -std=c99 "${warnings[@]}" -o "$work/consumer" tests/c/consumer/main.c "${consumer[@]}" \
        "-Wl,-rpath,$prefix/lib"
    run "$work/consumer"
else
    skipped+=("pkg-config is not installed")
fi
if command -v cmake >/dev/null; then
    cp -r tests/c/consumer "$work/consumer-source"
    cmake -S "$work/consumer-source" -B "$work/consumer-build" -DCMAKE_PREFIX_PATH="$prefix" \
        -DCMAKE_BUILD_TYPE=Release >"$work/cmake.log" && cmake --build "$work/consumer-build" \
        >>"$work/cmake.log" || { cat "$work/cmake.log" >&2; fail "find_package(deepseek) failed"; }
    run "$work/consumer-build/consumer_c"
    run "$work/consumer-build/consumer_c_static"
else
    skipped+=("cmake is not installed")
fi

for reason in "${skipped[@]}"; do
    echo "left out: $reason"
done
echo "tests/c: all passed"
