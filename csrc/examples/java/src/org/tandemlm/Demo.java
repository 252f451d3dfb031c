package org.tandemlm;

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/** java -Djava.library.path=build -cp build org.tandemlm.Demo BUNDLE TEXT [TOKENS]: continues a text. */
public final class Demo {
  private Demo() {}

  public static void main(String[] arguments) throws Exception {
    if (arguments.length < 2) {
      System.err.println("usage: Demo BUNDLE TEXT [TOKENS]");
      System.exit(2);
    }
    int tokens = arguments.length > 2 ? Integer.parseInt(arguments[2]) : 64;
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8.name());
    try (Tandem model = new Tandem(arguments[0], null, null)) {
      model.prefill(model.encode(arguments[1], true, false));
      // An app would do this on a worker thread and post each piece to its UI thread.
      model.generate(
          tokens,
          piece -> {
            out.print(piece);
            out.flush();
            return true;
          });
      out.println();
    } catch (Tandem.TandemException error) {
      System.err.println("Demo: " + error.getMessage());
      System.exit(1);
    }
  }
}
