package ai.deepseek;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;

/**
 * Runs every {@code static void} method without parameters of the test classes named below.
 *
 * <p>Add a test by adding such a method; what fails throws. System properties: {@code tests} is the
 * directory {@code tests/} of the source tree.
 */
public final class AllTests {
    private static final Class<?>[] CLASSES = {
        ConstantTests.class,
        TensorTests.class,
        ModelTests.class,
        SessionTests.class,
        RaggedTests.class,
        LifeTests.class,
        EmbedderTests.class,
        SurfaceTests.class,
    };

    private AllTests() {}

    public static void main(String[] args) throws Exception {
        int passed = 0;
        int failed = 0;
        for (Class<?> tests : CLASSES) {
            for (Method test : tests.getDeclaredMethods()) {
                boolean isTest = test.getParameterCount() == 0
                        && test.getReturnType() == void.class
                        && Modifier.isStatic(test.getModifiers())
                        && !Modifier.isPrivate(test.getModifiers());
                if (!isTest) {
                    continue;
                }
                try {
                    test.invoke(null);
                    passed++;
                } catch (InvocationTargetException e) {
                    failed++;
                    System.out.println("FAILED " + tests.getSimpleName() + "." + test.getName());
                    e.getCause().printStackTrace(System.out);
                }
            }
        }
        System.out.println("java: " + passed + " tests passed, " + failed + " failed");
        if (failed > 0 || passed < 40) {
            System.exit(1);
        }
    }
}
