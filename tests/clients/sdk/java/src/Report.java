import java.io.FileInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Code of both programs: the SDK's own result of each message, and trust in the test's certificate. */
final class Report {
  static final String EDGE = System.getenv("EDGE");
  static final String WRITE_KEY = System.getenv("WRITE_KEY");

  private final int messages;
  private final CountDownLatch pending;
  private final List<String> errors = Collections.synchronizedList(new ArrayList<>());

  Report(int messages) {
    this.messages = messages;
    pending = new CountDownLatch(messages);
  }

  void success() {
    pending.countDown();
  }

  void failure(Throwable error) {
    errors.add(String.valueOf(error));
    pending.countDown();
  }

  /** Waits for the result of each message. */
  void await() throws InterruptedException {
    if (!pending.await(60, TimeUnit.SECONDS)) {
      errors.add("no result for " + pending.getCount() + " messages");
    }
  }

  void print() {
    List<String> quoted = new ArrayList<>();
    for (String error : errors) {
      quoted.add('"' + error.replaceAll("[\\p{Cntrl}\"\\\\]", "?") + '"');
    }
    long delivered = messages - pending.getCount() - errors.size();
    System.out.println("{\"delivered\": " + delivered + ", \"errors\": [" + String.join(", ", quoted) + "]}");
  }

  /** Makes the JVM trust the certificate authority of the test, which is a PEM file. */
  static void trustTestAuthority() throws Exception {
    char[] password = "password".toCharArray();
    KeyStore store = KeyStore.getInstance("PKCS12");
    store.load(null, password);
    try (InputStream pem = new FileInputStream(System.getenv("SSL_CERT_FILE"))) {
      store.setCertificateEntry("edge", CertificateFactory.getInstance("X.509").generateCertificate(pem));
    }
    Path file = Files.createTempFile("trust", ".p12");
    file.toFile().deleteOnExit();
    try (OutputStream out = Files.newOutputStream(file)) {
      store.store(out, password);
    }
    System.setProperty("javax.net.ssl.trustStore", file.toString());
    System.setProperty("javax.net.ssl.trustStorePassword", "password");
  }
}
