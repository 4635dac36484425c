import com.rudderstack.sdk.java.analytics.Callback;
import com.rudderstack.sdk.java.analytics.RudderAnalytics;
import com.rudderstack.sdk.java.analytics.messages.AliasMessage;
import com.rudderstack.sdk.java.analytics.messages.GroupMessage;
import com.rudderstack.sdk.java.analytics.messages.IdentifyMessage;
import com.rudderstack.sdk.java.analytics.messages.Message;
import com.rudderstack.sdk.java.analytics.messages.MessageBuilder;
import com.rudderstack.sdk.java.analytics.messages.PageMessage;
import com.rudderstack.sdk.java.analytics.messages.ScreenMessage;
import com.rudderstack.sdk.java.analytics.messages.TrackMessage;
import java.time.Instant;
import java.util.Date;
import java.util.List;
import java.util.Map;

/** Uses RudderStack's Java SDK as an application does. */
public final class RudderClient {
  public static void main(String[] args) throws Exception {
    Report.trustTestAuthority();
    String edge = Report.EDGE;
    String writeKey = Report.WRITE_KEY;
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

    Report report = new Report(messages.size());
    Callback callback =
        new Callback() {
          @Override
          public void success(Message message) {
            report.success();
          }

          @Override
          public void failure(Message message, Throwable error) {
            report.failure(error);
          }
        };

    // docs
    RudderAnalytics analytics = RudderAnalytics.builder(writeKey).setDataPlaneUrl(edge).callback(callback).build();
    // /docs

    for (MessageBuilder message : messages) {
      analytics.enqueue(message);
    }
    analytics.flush();
    report.await();
    analytics.shutdown();
    report.print();
    System.exit(0);
  }
}
