package org.tandemlm;

import java.nio.charset.StandardCharsets;

/**
 * A language model behind libtandem, as an app would hold it: one object with its weights and one conversation. Its
 * methods may be called from any thread; one answer runs at a time, and {@link #cancel} may come meanwhile.
 */
public final class Tandem implements AutoCloseable {
  static {
    System.loadLibrary("tandem_jni");
  }

  /** Gets the answer piece by piece, on the thread that asked. */
  public interface Listener {
    /** Whole characters, in order. Return false to stop. */
    boolean onText(String piece);
  }

  /** What libtandem refused or could not do; the message names the remedy. */
  public static final class TandemException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** The tandem_status of tandem.h. */
    public final int status;

    TandemException(int status, byte[] message) {
      super(new String(message, StandardCharsets.UTF_8));
      this.status = status;
    }
  }

  // Handles of tandem.h. Stale ones are refused there, so a call that loses a race with close() throws, no worse.
  private final long engine;
  private final long session;

  /**
   * Loads a bundle.
   *
   * @param bundle path of the .litertlm file
   * @param litertLibrary path of libLiteRt.so, or null to find it by name (an app's own native libraries)
   * @param cacheDir folder for weights packed for this device, or null for the default; an app's getCacheDir()
   */
  public Tandem(String bundle, String litertLibrary, String cacheDir) {
    engine = open(utf8(bundle), utf8(litertLibrary), utf8(cacheDir));
    long opened = 0;
    try {
      opened = createSession(engine);
    } finally {
      if (opened == 0) closeEngine(engine);
    }
    session = opened;
  }

  /** Token ids of a text; the bos token first if asked for. Names of special tokens count as such with parseSpecial. */
  public int[] encode(String text, boolean addBos, boolean parseSpecial) {
    return encode(engine, utf8(text), addBos, parseSpecial);
  }

  /** Appends token ids to the conversation. */
  public void prefill(int[] ids) {
    prefill(session, ids);
  }

  /** Continues the conversation with at most maxTokens tokens, and streams their text. */
  public void generate(int maxTokens, Listener listener) {
    generate(session, maxTokens, bytes -> listener.onText(new String(bytes, StandardCharsets.UTF_8)));
  }

  /** Stops the running answer, from any thread. */
  public void cancel() {
    cancel(session);
  }

  /** Frees everything. An answer that is running ends first, by itself. */
  @Override
  public void close() {
    closeSession(session);
    closeEngine(engine);
  }

  // JNI's own strings are "modified UTF-8", which libtandem does not read, so bytes cross the border.
  private static byte[] utf8(String text) {
    return text == null ? null : (text + "\0").getBytes(StandardCharsets.UTF_8);
  }

  private interface ByteListener {
    boolean onBytes(byte[] piece);
  }

  private static native long open(byte[] bundle, byte[] litertLibrary, byte[] cacheDir);

  private static native long createSession(long engine);

  private static native int[] encode(long engine, byte[] text, boolean addBos, boolean parseSpecial);

  private static native void prefill(long session, int[] ids);

  private static native void generate(long session, int maxTokens, ByteListener listener);

  private static native void cancel(long session);

  private static native void closeSession(long session);

  private static native void closeEngine(long engine);
}
