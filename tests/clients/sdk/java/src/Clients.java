import com.segment.analytics.Analytics;
import com.segment.analytics.Callback;
import com.segment.analytics.messages.AliasMessage;
import com.segment.analytics.messages.GroupMessage;
import com.segment.analytics.messages.IdentifyMessage;
import com.segment.analytics.messages.Message;
import com.segment.analytics.messages.MessageBuilder;
import com.segment.analytics.messages.PageMessage;
import com.segment.analytics.messages.ScreenMessage;
import com.segment.analytics.messages.TrackMessage;
import java.io.FileInputStream;
import java.io.InputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;
import okhttp3.OkHttpClient;

/** Uses analytics-java as an application does. */
public final class Clients {
  public static void main(String[] args) throws Exception {
    String edge = System.getenv("EDGE");
    String writeKey = System.getenv("WRITE_KEY");
    List<MessageBuilder> messages =
        List.of(
            IdentifyMessage.builder().userId("u-1").traits(Map.of("plan", "pro")),
            TrackMessage.builder("Order Completed")
                .userId("u-1")
                .properties(
                    Map.of(
                        "item", "T-Shirt", "revenue", 19.99, "sizes", List.of(1, 2), "buyer", Map.of("name", "é😀")))
                .context(Map.of("ip", "24.5.68.47")),
            TrackMessage.builder("Elsewhere")
                .userId("u-1")
                .enableIntegration("All", true)
                .enableIntegration("Keen IO", false),
            TrackMessage.builder("Old Event")
                .anonymousId("a-1")
                .timestamp(Date.from(Instant.parse("2012-12-02T00:30:12.984Z"))),
            PageMessage.builder("Index")
                .userId("u-1")
                .category("Docs")
                .properties(Map.of("url", "https://example.com/docs")),
            ScreenMessage.builder("Main").userId("u-1"),
            GroupMessage.builder("g-1").userId("u-1").traits(Map.of("name", "Initech")),
            AliasMessage.builder("a-1").userId("u-1"));

    CountDownLatch told = new CountDownLatch(messages.size());
    List<String> errors = Collections.synchronizedList(new ArrayList<>());
    Callback callback =
        new Callback() {
          @Override
          public void success(Message message) {
            told.countDown();
          }

          @Override
          public void failure(Message message, Throwable error) {
            errors.add(String.valueOf(error));
            told.countDown();
          }
        };
    OkHttpClient client = trusting(System.getenv("SSL_CERT_FILE"));

    // docs
    Analytics analytics = Analytics.builder(writeKey).endpoint(edge).client(client).callback(callback).build();
    // /docs

    for (MessageBuilder message : messages) {
      analytics.enqueue(message);
    }
    analytics.flush();
    if (!told.await(60, TimeUnit.SECONDS)) {
      errors.add("no word of " + told.getCount() + " messages");
    }
    analytics.shutdown();
    List<String> quoted = new ArrayList<>();
    for (String error : errors) {
      quoted.add('"' + error.replaceAll("[\\p{Cntrl}\"\\\\]", "?") + '"');
    }
    long delivered = messages.size() - told.getCount() - errors.size();
    System.out.println("{\"delivered\": " + delivered + ", \"errors\": [" + String.join(", ", quoted) + "]}");
    System.exit(0);
  }

  /** An HTTP client that trusts the test's certificate too. */
  private static OkHttpClient trusting(String authority) throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null);
    try (InputStream pem = new FileInputStream(authority)) {
      store.setCertificateEntry("edge", CertificateFactory.getInstance("X.509").generateCertificate(pem));
    }
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store);
    SSLContext tls = SSLContext.getInstance("TLS");
    tls.init(null, trust.getTrustManagers(), null);
    X509TrustManager manager = (X509TrustManager) trust.getTrustManagers()[0];
    return new OkHttpClient.Builder().sslSocketFactory(tls.getSocketFactory(), manager).build();
  }
}
