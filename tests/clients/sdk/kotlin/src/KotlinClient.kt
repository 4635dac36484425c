// analytics-kotlin on the JVM, as an application uses it: KotlinClientKt PREFIX [no-default-settings]
//
// PREFIX is /v1 or empty.
import com.segment.analytics.kotlin.core.*
import com.segment.analytics.kotlin.core.utilities.putInContext
import com.segment.analytics.kotlin.core.platform.policies.CountBasedFlushPolicy
import com.segment.analytics.kotlin.core.utilities.InMemoryStorageProvider
import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeoutOrNull
import kotlinx.serialization.json.*
import java.io.File
import java.lang.System.getenv
import java.lang.System.setProperty
import java.security.KeyStore
import java.security.cert.CertificateFactory
import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.atomic.AtomicInteger
import kotlin.system.exitProcess

const val CALLS = 7

/** Uses http for Envoy's plain listener. The SDK itself always uses https. */
open class PlainRequests : RequestFactory() {
    override fun openConnection(url: String) = super.openConnection(url.replaceFirst("https:", "http:"))
}

/** Uses http for telemetry too. */
class PlainTelemetry : PlainRequests() {
    override fun upload(apiHost: String) = openConnection("https://$apiHost/m").apply {
        setRequestProperty("Content-Type", "text/plain")
        doOutput = true
    }
}

/** Counts the events that the SDK has stored, and the batches that it has sent or dropped. */
class CountingStorage(private val storage: Storage) : Storage by storage {
    override suspend fun write(key: Storage.Constants, value: String) {
        storage.write(key, value)
        if (key == Storage.Constants.Events) stored.incrementAndGet()
    }

    override fun removeFile(filePath: String) = storage.removeFile(filePath).also { removed.incrementAndGet() }

    companion object : StorageProvider {
        val stored = AtomicInteger()
        val removed = AtomicInteger()
        override fun createStorage(vararg params: Any) =
            CountingStorage(InMemoryStorageProvider().createStorage(*params))
    }
}

/** Makes the JVM trust the certificate authority of the test, which is a PEM file. */
fun trustTestAuthority() {
    val store = KeyStore.getInstance("PKCS12").apply { load(null, null) }
    File(getenv("SSL_CERT_FILE")).inputStream().use {
        store.setCertificateEntry("edge", CertificateFactory.getInstance("X.509").generateCertificate(it))
    }
    val file = File.createTempFile("trust", ".p12").apply { deleteOnExit() }
    file.outputStream().use { store.store(it, "password".toCharArray()) }
    setProperty("javax.net.ssl.trustStore", file.path)
    setProperty("javax.net.ssl.trustStorePassword", "password")
}

fun main(arguments: Array<String>) {
    trustTestAuthority()
    val (scheme, host) = getenv("EDGE").split("://")
    val edge = host + arguments[0]
    val writeKey = getenv("WRITE_KEY")
    val errors = CopyOnWriteArrayList<String>()

    if (scheme == "http") Telemetry.httpClient = HTTPClient("", PlainTelemetry())
    // docs
    Telemetry.host = edge
    val analytics = Analytics(writeKey) {
        application = "shop"
        apiHost = edge
        cdnHost = edge
        defaultSettings = Settings(buildJsonObject { putJsonObject("Segment.io") { put("apiKey", writeKey) } })
        if ("no-default-settings" in arguments) defaultSettings = null // test
        if (scheme == "http") requestFactory = PlainRequests() // test
        storageProvider = CountingStorage // test
        flushPolicies = listOf(CountBasedFlushPolicy(CALLS)) // test
        errorHandler = { error -> errors.add(error.toString()) } // test
    }
    // /docs

    fun json(text: String) = Json.parseToJsonElement(text).jsonObject
    analytics.identify("u-1", json("""{"plan": "pro"}"""))
    val order = json("""{"item": "T-Shirt", "revenue": 19.99, "sizes": [1, 2], "buyer": {"name": "é😀"}}""")
    analytics.track("Order Completed", order) { it?.putInContext("ip", JsonPrimitive("24.5.68.47")) }
    analytics.track("Elsewhere") {
        it?.apply { integrations = json("""{"All": true, "Keen IO": false}""") }
    }
    analytics.track("Old Event") {
        it?.apply {
            userId = ""
            anonymousId = "a-1"
            timestamp = "2012-12-02T00:30:12.984Z"
        }
    }
    analytics.screen("Main")
    analytics.group("g-1", json("""{"name": "Initech"}"""))
    analytics.alias("u-1")

    // The SDK has no callback. The events are one batch, which it removes when it has sent or dropped it.
    runBlocking {
        val seconds = if ("no-default-settings" in arguments) 10 else 60
        withTimeoutOrNull(seconds * 1000L) {
            for (tick in 1..Int.MAX_VALUE) {
                if (CountingStorage.removed.get() > 0) break
                val isStored = CountingStorage.stored.get() == CALLS
                if (tick % 50 == 0 && isStored) analytics.flush()
                // A call that is made while the SDK starts may stay in its start-up queue until the next check.
                if (tick % 150 == 0 && !isStored) analytics.checkSettings()
                delay(20)
            }
        } ?: errors.add("the SDK has stored ${CountingStorage.stored} events, but sent none within $seconds s")
    }
    val dropped = errors.filter { "dropped" in it || "sent none" in it }
    val delivered = if (dropped.isEmpty()) CALLS else 0
    println(buildJsonObject {
        put("delivered", delivered)
        put("errors", buildJsonArray { dropped.forEach { add(it) } })
    })
    exitProcess(0)
}
