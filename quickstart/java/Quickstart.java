import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Sends one message and receives it. Another address can be the argument. */
public final class Quickstart {
    public static void main(String[] arguments) throws Exception {
        ClientServiceProvider client = ClientServiceProvider.loadService();
        ClientConfiguration configuration = ClientConfiguration.newBuilder()
            .setEndpoints(arguments.length > 0 ? arguments[0] : "127.0.0.1:8081").enableSsl(false).build();

        try (Producer producer = client.newProducerBuilder().setClientConfiguration(configuration)
                .setTopics("quickstart").build()) {
            System.out.println("sent " + producer.send(client.newMessageBuilder().setTopic("quickstart")
                .setBody("hello from Java".getBytes(StandardCharsets.UTF_8)).build()).getMessageId());
        }

        try (SimpleConsumer consumer = client.newSimpleConsumerBuilder().setClientConfiguration(configuration)
                .setConsumerGroup("quickstart-java").setAwaitDuration(Duration.ofSeconds(5))
                .setSubscriptionExpressions(Map.of("quickstart", FilterExpression.SUB_ALL)).build()) {
            for (boolean came = false; !came;) {
                for (MessageView message : consumer.receive(16, Duration.ofSeconds(30))) {
                    String body = StandardCharsets.UTF_8.decode(message.getBody()).toString();
                    System.out.println("received " + body);
                    consumer.ack(message);
                    came |= body.equals("hello from Java");
                }
            }
        }
        System.exit(0);
    }
}
