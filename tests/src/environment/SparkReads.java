import java.io.InputStream;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.util.HexFormat;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Reads a bucket through S3A: a file byte by byte, and a table with Spark SQL.
 *
 * <p>Arguments: endpoint, access key, secret, file, table, condition. Prints the version, the file's SHA-256, how many
 * paths are beside the table, and the count of rows and the sum of squares under the condition.
 */
public final class SparkReads {
  public static void main(String[] arguments) throws Exception {
    SparkSession spark =
        SparkSession.builder()
            .master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.hadoop.fs.s3a.endpoint", arguments[0])
            .config("spark.hadoop.fs.s3a.endpoint.region", "us-east-1")
            .config("spark.hadoop.fs.s3a.path.style.access", "true")
            .config("spark.hadoop.fs.s3a.connection.ssl.enabled", "false")
            .config("spark.hadoop.fs.s3a.access.key", arguments[1])
            .config("spark.hadoop.fs.s3a.secret.key", arguments[2])
            .getOrCreate();
    System.out.println(spark.version());
    Path file = new Path(arguments[3]);
    Configuration configuration = spark.sparkContext().hadoopConfiguration();
    MessageDigest digest = MessageDigest.getInstance("SHA-256");
    try (InputStream in = new DigestInputStream(file.getFileSystem(configuration).open(file), digest)) {
      byte[] buffer = new byte[1 << 20];
      while (in.read(buffer) >= 0) {}
    }
    System.out.println(HexFormat.of().formatHex(digest.digest()));
    Path folder = new Path(arguments[4]).getParent();
    System.out.println(folder.getFileSystem(configuration).listStatus(folder).length);
    spark.read().parquet(arguments[4]).createOrReplaceTempView("numbers");
    Row row =
        spark.sql("SELECT count(*), sum(square) FROM numbers WHERE " + arguments[5]).first();
    System.out.println(row.getLong(0) + " " + row.getLong(1));
    spark.stop();
  }
}
