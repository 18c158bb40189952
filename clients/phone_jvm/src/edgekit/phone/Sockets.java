package edgekit.phone;

import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import javax.net.ssl.SSLContext;

/** WebSockets of the JDK (java.net.http). */
public final class Sockets implements PhoneLine.Opener {
    private static final int BROKEN = 1006;
    private static final long SEND_SECONDS = 60;
    private final HttpClient client;

    /** @param trusted whom to trust; null for the authorities of the JDK */
    public Sockets(SSLContext trusted) {
        HttpClient.Builder builder = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(20));
        this.client = trusted == null ? builder.build() : builder.sslContext(trusted).build();
    }

    @Override
    public PhoneLine.Socket open(URI address, Consumer<byte[]> message, Consumer<Integer> closed) throws Exception {
        WebSocket.Listener listener = new WebSocket.Listener() {
            private ByteArrayOutputStream parts = new ByteArrayOutputStream();

            @Override
            public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer data, boolean last) {
                byte[] part = new byte[data.remaining()];
                data.get(part);
                parts.writeBytes(part);
                if (last) {
                    message.accept(parts.toByteArray());
                    parts = new ByteArrayOutputStream();
                }
                socket.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
                closed.accept(code);
                return null;
            }

            @Override
            public void onError(WebSocket socket, Throwable error) {
                closed.accept(BROKEN);
            }
        };
        WebSocket socket = client.newWebSocketBuilder().buildAsync(address, listener).get(30, TimeUnit.SECONDS);
        return new PhoneLine.Socket() {
            @Override
            public synchronized void send(byte[] content) throws Exception {
                socket.sendBinary(ByteBuffer.wrap(content), true).get(SEND_SECONDS, TimeUnit.SECONDS);
            }

            @Override
            public void close() {
                socket.abort();
            }
        };
    }
}
