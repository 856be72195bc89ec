#!/usr/bin/env bash
# Packages the binding and tests it from the package, in an empty directory, with the
# virtual machine's checks of native code on. Then once more with a library that panics.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bindings/java/package.sh "$work/package"
jar=$(echo "$work"/package/deepseek-*.*.[0-9].jar)
javac -Xlint:all -Werror --release 11 -cp "$jar" -d "$work/tests" bindings/java/test/ai/deepseek/*.java
javac -Xlint:all -Werror --release 11 -cp "$jar" -d "$work/examples" examples/java/*.java

# A test run is good if it says so and the virtual machine found nothing to complain about.
run() {
    (cd "$work" && timeout 1800 java -Xcheck:jni -Xmx256m -ea -Dtests="$root/tests" -cp "$jar:$work/tests" "$@") |
        tee "$work/log"
    if grep -E 'WARNING|FATAL ERROR in native' "$work/log"; then
        echo "java: -Xcheck:jni complained" >&2
        exit 1
    fi
}
run ai.deepseek.AllTests

# A native library of another version, or none, is refused with a sentence.
mkdir -p "$work/other/ai/deepseek"
echo 9.9.9 >"$work/other/ai/deepseek/version"
(cd "$work" && java -cp "$work/other:$jar:$work/tests" ai.deepseek.AllTests 2>&1 || true) |
    grep 'jar is version 9.9.9, the native library' >/dev/null ||
    { echo "java: a library of another version was accepted" >&2; exit 1; }

# The examples, with the jar on the class path and on the module path.
questions=$root/examples/questions.txt
for place in "-cp $jar:$work/examples" "-p $jar --add-modules ai.deepseek -cp $work/examples"; do
    # shellcheck disable=SC2086 # several arguments
    (cd "$work" && java $place Search "$root/tests/golden/hf/bert-mean" "$questions" "$questions") |
        grep -c '^  1 1\.000000 3f' | grep -x "$(grep -c '' "$questions")" >/dev/null ||
        { echo "java: a question is not its own best answer ($place)" >&2; exit 1; }
done
model=$root/build/onnx-cases/node/test_relu/model.onnx
if [ -f "$model" ]; then
    java -cp "$jar:$work/examples" Run "$model" | grep -x 'y: f32\[3, 4, 5\]' >/dev/null
fi

tools/build.sh --features deepseek-java/test-hooks
cp "$target/release/libdeepseek_java.so" "$work/"
run -Dai.deepseek.library="$work/libdeepseek_java.so" ai.deepseek.PanicTest
echo "java: all passed"
